import { z } from 'zod';
import { findUnstorable } from '../../db/storable.ts';
import { invalid } from './problem.ts';

/** Fields whose values are never repeated in an error. */
const SECRETS = ['password'];
/** The maximum length of a wrong value that an error repeats. */
const MAX_SHOWN_LENGTH = 50;
/** The maximum depth of a path that an error names. */
const MAX_SHOWN_LEVELS = 5;

/**
 * Parses a value with a schema. Throws 400 with each wrong field (prefixed with `at`), what is valid, and the value. Text and
 * numbers that Postgres cannot store are invalid in every field.
 */
export function parse<Schema extends z.ZodType>(schema: Schema, value: unknown, at = ''): z.output<Schema> {
  const parsed = schema.safeParse(value, { error: messageOf });
  if (parsed.success) {
    refuseUnstorable(parsed.data, at);
    return parsed.data;
  }
  throw invalid(
    parsed.error.issues
      .map(({ path, code, message }) => {
        const got = code === 'custom' || code === 'unrecognized_keys' ? '' : showValue(value, path);
        return [`${at}${path.join('.')}`.replace(/\.$/, ''), `${message}${got}`].filter(Boolean).join(': ');
      })
      .join('; '),
  );
}

/** The messages of issues for which schemas define none. */
function messageOf(issue: z.core.$ZodRawIssue): string | undefined {
  if (issue.code === 'invalid_value') {
    const values = issue.values.map(String);
    return values.length === 1 ? `must be ${values[0]}` : `must be one of ${values.join(', ')}`;
  }
  if (issue.code !== 'unrecognized_keys') return undefined;
  return unknownFields(issue.keys, issue.inst instanceof z.ZodObject ? Object.keys(issue.inst.shape) : []);
}

/** The message about unknown fields or query parameters. */
export function unknownFields(keys: string[], valid: string[]): string {
  const unknown = `unknown field ${keys.map((key) => JSON.stringify(key)).join(', ')}`;
  return valid.length === 0 ? unknown : `${unknown}; valid fields: ${valid.join(', ')}`;
}

/** Shows a short text or number at a path, such as ` (got 1200)`; gives '' for any other value. */
function showValue(value: unknown, path: PropertyKey[]): string {
  if (path.some((key) => SECRETS.includes(String(key)))) return '';
  const wrong = path.reduce<unknown>((within, key) => {
    return typeof within === 'object' && within !== null ? Reflect.get(within, key) : undefined;
  }, value);
  const text = typeof wrong === 'string' || typeof wrong === 'number' ? String(wrong) : undefined;
  return text === undefined || text.length > MAX_SHOWN_LENGTH ? '' : ` (got ${text === '' ? '""' : text})`;
}

function refuseUnstorable(parsed: unknown, at: string): void {
  const found = findUnstorable(parsed) ?? findInfinite(parsed);
  if (found === undefined) return;
  const place = `${at}${found.path.slice(0, MAX_SHOWN_LEVELS).join('.')}`.replace(/\.$/, '');
  throw invalid([place, found.reason].filter(Boolean).join(': '));
}

/** Finds a number beyond the range of doubles, such as 1e400: JSON would store it as null. */
function findInfinite(value: unknown): { path: string[]; reason: string } | undefined {
  if (typeof value === 'number' && !Number.isFinite(value)) {
    return { path: [], reason: 'must be a number within the range of IEEE 754 doubles' };
  }
  if (typeof value !== 'object' || value === null) return undefined;
  for (const [name, member] of Object.entries(value)) {
    const found = findInfinite(member);
    if (found !== undefined) return { path: [name, ...found.path], reason: found.reason };
  }
  return undefined;
}
