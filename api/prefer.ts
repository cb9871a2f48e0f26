const MOST_SECONDS = 60;
/** A preference as RFC 7240 writes it: a token, perhaps with a value and with parameters. */
const TOKEN = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";
const WORD = `(?:${TOKEN}|"(?:[^"\\\\]|\\\\.)*")`;
const PARAMETER = `${TOKEN}(?:\\s*=\\s*${WORD})?`;
/** Each blank can match in one place only, or a malformed header would take exponential time. */
const PREFERENCE = new RegExp(`^\\s*(${TOKEN})(?:\\s*=\\s*(${WORD}))?\\s*(?:;\\s*(?:${PARAMETER}\\s*)?)*$`);
/** Commas inside quotes part nothing. */
const COMMA = /,(?=(?:[^"\\]|\\.|"(?:[^"\\]|\\.)*")*$)/;

/**
 * The seconds of `wait` in a Prefer header (RFC 7240), 60 at most; undefined without one. The first `wait` counts; what is
 * malformed is ignored.
 */
export function waitOf(prefer: string | undefined): number | undefined {
  for (const preference of prefer?.slice(0, 1_000).split(COMMA) ?? []) {
    const [, name, value] = PREFERENCE.exec(preference) ?? [];
    if (name?.toLowerCase() !== 'wait') continue;
    return value !== undefined && /^\d+$/.test(value) ? Math.min(Number(value), MOST_SECONDS) : undefined;
  }
  return undefined;
}
