const MAX_DEPTH = 100;

/** The place in a JSON value that Postgres cannot keep, and the reason. */
interface Unstorable {
  path: string[];
  reason: string;
}

/** Whether Postgres can keep a JSON value: no NUL and no half of a surrogate pair in its strings, and not nested too deep. */
export function isStorable(value: unknown): boolean {
  return findUnstorable(value) === undefined;
}

/** The first member of a JSON value that Postgres cannot keep. */
export function findUnstorable(value: unknown, levelsLeft = MAX_DEPTH): Unstorable | undefined {
  if (levelsLeft < 0) return { path: [], reason: `must not be nested more than ${MAX_DEPTH} levels deep` };
  if (typeof value === 'string') {
    const reason = whyUnstorable(value);
    return reason === undefined ? undefined : { path: [], reason };
  }
  if (typeof value !== 'object' || value === null) return undefined;
  for (const [name, member] of Object.entries(value)) {
    const reason = whyUnstorable(name);
    if (reason !== undefined) return { path: [], reason: `names of members ${reason}` };
    const found = findUnstorable(member, levelsLeft - 1);
    if (found !== undefined) return { path: [name, ...found.path], reason: found.reason };
  }
  return undefined;
}

function whyUnstorable(text: string): string | undefined {
  if (text.includes('\0')) return 'must not contain NUL';
  return text.isWellFormed() ? undefined : 'must not contain half a surrogate pair';
}

/** The same text, with U+FFFD for what Postgres cannot keep. */
export function storableText(text: string): string {
  return text.toWellFormed().replaceAll('\0', '\uFFFD');
}
