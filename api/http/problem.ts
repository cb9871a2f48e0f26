import type { ErrorRequestHandler, Request, RequestHandler } from 'express';
import { MulterError } from 'multer';
import { z } from 'zod';
import { isLockTimeout, isOutage, isStatementTimeout } from '../../db/postgres-errors.ts';
import { findUnstorable } from '../../db/storable.ts';
import { AppError, type ErrorCode } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';

/** What went wrong with the multipart body, in words; other codes keep multer's own. */
const MULTIPART_CODES: Record<string, (field?: string) => AppError> = {
  LIMIT_FILE_COUNT: () => invalid('more than 20 files in one upload'),
  LIMIT_UNEXPECTED_FILE: (field) => invalid(`files are expected in the field "file", not in "${field}"`),
  LIMIT_FIELD_VALUE: (field) => invalid(`${field}: must have 2048 bytes at most; send files in the field "file"`),
};

/** Codes of what Express refuses by itself, but for `invalid_request`. */
const STATUS_CODES: Record<number, ErrorCode> = { 413: 'file_too_large', 415: 'unsupported_media_type' };

/** A request that does not keep to the contract. */
export function invalid(message: string): AppError {
  return new AppError('invalid_request', message, { status: 400 });
}

export function notFound(what: string): AppError {
  return new AppError('not_found', `${what} was not found`, { status: 404 });
}

/** Members whose values no answer repeats. */
const SECRETS = ['password'];
/** Characters of a wrong value that an error repeats. */
const MAX_SHOWN_LENGTH = 50;
/** Of the place in a nested value that an error names. */
const MAX_SHOWN_LEVELS = 5;

/**
 * Parses with a schema. The error names each field (below `at`), what is valid, and the value. Text and numbers that
 * Postgres cannot store are invalid in every field.
 */
export function parse<Schema extends z.ZodType>(schema: Schema, value: unknown, at = ''): z.output<Schema> {
  const parsed = schema.safeParse(value, { error: inWords });
  if (parsed.success) {
    refuseUnstorable(parsed.data, at);
    return parsed.data;
  }
  throw invalid(
    parsed.error.issues
      .map(({ path, code, message }) => {
        const got = code === 'custom' || code === 'unrecognized_keys' ? '' : shown(value, path);
        return [`${at}${path.join('.')}`.replace(/\.$/, ''), `${message}${got}`].filter(Boolean).join(': ');
      })
      .join('; '),
  );
}

/** Words for what schemas have no words of their own for. */
function inWords(issue: z.core.$ZodRawIssue): string | undefined {
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

/** The short text or number at a path, as an error shows it; else nothing. */
function shown(value: unknown, path: PropertyKey[]): string {
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

/** A number of JSON beyond the range of doubles, such as 1e400: it would be stored as null. */
function findInfinite(value: unknown): { path: string[]; reason: string } | undefined {
  if (typeof value === 'number' && !Number.isFinite(value)) {
    return { path: [], reason: 'must be a number within the range of IEEE doubles' };
  }
  if (typeof value !== 'object' || value === null) return undefined;
  for (const [name, member] of Object.entries(value)) {
    const found = findInfinite(member);
    if (found !== undefined) return { path: [name, ...found.path], reason: found.reason };
  }
  return undefined;
}

export const noSuchRoute: RequestHandler = (request) => {
  throw notFound(`${request.method} ${request.path}`);
};

/** The one place that turns errors into answers: problem+json (RFC 9457); causes go to the log alone. */
export function problems(log: Logger): ErrorRequestHandler {
  return function renderProblem(error, request, response, next) {
    const known = toAppError(error, request);
    // What is refused on purpose has no cause, and would fill the log just when there is much to do.
    if (known.status >= 500 && (known.code !== 'unavailable' || known.cause))
      log.error({ err: error, request: response.locals.requestId }, 'request failed');
    if (response.headersSent) return next(error);
    const problem = problemOf(known, response.locals.requestId);
    response.status(known.status).set(headersOf(problem)).send(JSON.stringify(problem));
  };
}

/** What a client is told, as RFC 9457 writes it. */
export interface Problem extends Record<string, unknown> {
  type: string;
  title: string;
  status: number;
  code: string;
  detail: string;
  request_id: string;
}

export function problemOf(error: unknown, requestId: string): Problem {
  const { code, status, message, details } = error instanceof AppError ? error : internal(error);
  return {
    type: 'about:blank',
    title: code.replaceAll('_', ' '),
    status,
    code,
    detail: message,
    request_id: requestId,
    ...details,
  };
}

/** What HTTP wants said in headers, too. */
export function headersOf({ status, retry_after_seconds = 5 }: Problem): Record<string, string> {
  return {
    'Content-Type': 'application/problem+json',
    ...(status === 401 && { 'WWW-Authenticate': 'Bearer' }),
    ...((status === 429 || status === 503) && { 'Retry-After': String(retry_after_seconds) }),
  };
}

function internal(cause: unknown): AppError {
  return new AppError('internal', 'an unexpected error; the log has the details', { status: 500, cause });
}

function toAppError(error: unknown, request: Request): AppError {
  if (error instanceof AppError) return error;
  // A query that had to wait for too many others: drizzle wraps what refused it.
  if (error instanceof Error && error.cause instanceof AppError) return error.cause;
  if (error instanceof MulterError) return MULTIPART_CODES[error.code]?.(error.field) ?? invalid(error.message);
  if (request.destroyed && !request.complete) return invalid('the client went away');
  // busboy has plain errors for a body that it cannot read.
  if (
    request.is('multipart') &&
    error instanceof Error &&
    /boundary|multipart|end of form|malformed/i.test(error.message)
  ) {
    return invalid(`unreadable multipart body: ${error.message}`);
  }
  // Express and its router mark what the client got wrong (a bad escape in the path, a bad range) with a status.
  const status = (error as { status?: unknown } | null)?.status;
  if (status === 404) return notFound(request.path);
  if (typeof status === 'number' && status >= 400 && status < 500) {
    return new AppError(STATUS_CODES[status] ?? 'invalid_request', (error as Error).message, { status });
  }
  if (isLockTimeout(error)) {
    return new AppError('unavailable', 'another change is in progress: try again later', { status: 503 });
  }
  if (isStatementTimeout(error)) {
    return new AppError('unavailable', 'the query took too long: narrow it down, or try again later', { status: 503 });
  }
  if (isOutage(error)) {
    return new AppError('unavailable', 'the database cannot be reached just now', { status: 503, cause: error });
  }
  return internal(error);
}
