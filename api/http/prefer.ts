import { z } from 'zod';

const MAX_SECONDS = 60;
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;

export const prefer = z
  .string()
  .describe(
    `\`wait=30\` (RFC 7240) holds the answer until the end, for at most so many seconds (maximum ${MAX_SECONDS})`,
  );

/**
 * Reads the seconds of `wait` in a Prefer header (RFC 7240), at most 60; undefined without `wait`. The first `wait` counts, and
 * malformed preferences are ignored. Takes linear time.
 */
export function waitOf(prefer: string | undefined): number | undefined {
  for (const preference of splitUnquoted(prefer ?? '', ',')) {
    const [[name, value] = [''], ...parameters] = splitUnquoted(preference, ';').map(readParameter);
    const isWellFormed = isToken(name) && isWord(value) && parameters.every(isParameter);
    if (!isWellFormed || name.toLowerCase() !== 'wait') continue;
    return value !== undefined && /^\d+$/.test(value) ? Math.min(Number(value), MAX_SECONDS) : undefined;
  }
  return undefined;
}

type Parameter = [name: string, value?: string];

/** Splits a text at separators outside of quotes. */
function splitUnquoted(text: string, separator: string): string[] {
  const parts: string[] = [];
  let start = 0;
  for (let at = 0; at < text.length; at++) {
    if (text[at] === '"') at = findClosingQuote(text, at);
    else if (text[at] === separator) {
      parts.push(text.slice(start, at));
      start = at + 1;
    }
  }
  return [...parts, text.slice(start)];
}

/** The index of the closing quote of a string that starts at `start`, or an index beyond the text. */
function findClosingQuote(text: string, start: number): number {
  let at = start + 1;
  while (at < text.length && text[at] !== '"') at += text[at] === '\\' ? 2 : 1;
  return at;
}

function readParameter(text: string): Parameter {
  const at = text.indexOf('=');
  return at < 0 ? [text.trim()] : [text.slice(0, at).trim(), text.slice(at + 1).trim()];
}

/** An empty parameter between two semicolons is valid. */
function isParameter([name, value]: Parameter): boolean {
  return (name === '' && value === undefined) || (isToken(name) && isWord(value));
}

function isToken(text: string): boolean {
  return TOKEN.test(text);
}

function isWord(value: string | undefined): boolean {
  if (value === undefined || isToken(value)) return true;
  return value.startsWith('"') && findClosingQuote(value, 0) === value.length - 1;
}
