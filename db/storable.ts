const MAX_DEPTH = 100;

/** The path of a value that Postgres cannot store, and the reason. */
interface Unstorable {
  path: string[];
  reason: string;
}

/** True if Postgres can store a JSON value: its strings have no NUL and no lone surrogate, and its depth is limited. */
export function isStorable(value: unknown): boolean {
  return findUnstorable(value) === undefined;
}

/** The first member of a JSON value that Postgres cannot store. */
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
  return text.isWellFormed() ? undefined : 'must not contain a lone surrogate';
}

/** Replaces characters that Postgres cannot store by U+FFFD. */
export function storableText(text: string): string {
  return text.toWellFormed().replaceAll('\0', '\uFFFD');
}
