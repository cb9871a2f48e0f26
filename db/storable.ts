const DEEPEST = 100;

/** Whether Postgres can keep a JSON value: no NUL and no half of a surrogate pair in its strings, and not nested too deep. */
export function isStorable(value: unknown, depth = 0): boolean {
  if (depth > DEEPEST) return false;
  if (typeof value === 'string') return value.isWellFormed() && !value.includes('\0');
  if (typeof value !== 'object' || value === null) return true;
  return Object.entries(value).every(([key, member]) => isStorable(key, depth) && isStorable(member, depth + 1));
}

/** The same text, with U+FFFD for what Postgres cannot keep. */
export function storableText(text: string): string {
  return text.toWellFormed().replaceAll('\0', '\uFFFD');
}
