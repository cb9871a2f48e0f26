import type { ErrorRequestHandler, Request, RequestHandler } from 'express';
import { z } from 'zod';
import { isLockTimeout, isOutage, isStatementTimeout } from '../../db/postgres-errors.ts';
import { AppError, type ErrorCode } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';
import { stateOf } from './request-state.ts';
import { keepOpenForAnswer } from './unread-body.ts';

/** The codes of errors that Express throws; others have `invalid_request`. */
const EXPRESS_CODES: Record<number, ErrorCode> = { 413: 'file_too_large', 415: 'unsupported_media_type' };

/** A request that violates the contract. */
export function invalid(message: string): AppError {
  return new AppError('invalid_request', message, { status: 400 });
}

export function notFound(what: string): AppError {
  return new AppError('not_found', `${what} was not found`, { status: 404 });
}

export const noSuchRoute: RequestHandler = (request) => {
  throw notFound(`${request.method} ${request.path}`);
};

/** The only place that turns errors into answers (RFC 9457). The causes of errors are logged, and never sent. */
export function problems(log: Logger): ErrorRequestHandler {
  return function sendProblem(error, request, response, next) {
    const known = toAppError(error, request);
    const { id } = stateOf(request);
    // Refusals by a limit have no cause; logging them would fill the log under load.
    if (known.status >= 500 && (known.code !== 'unavailable' || known.cause)) {
      log.error({ err: error, request: id }, 'request failed');
    }
    if (response.headersSent) return next(error);
    if (!request.complete) keepOpenForAnswer(request, response);
    const problem = problemOf(known, id);
    response.status(known.status).set(headersOf(problem)).send(JSON.stringify(problem));
  };
}

/** An error as RFC 9457 defines it. */
export const problem = z.strictObject({
  type: z.literal('about:blank'),
  title: z.string(),
  status: z.int(),
  code: z.string(),
  detail: z.string(),
  request_id: z.string(),
  cycle: z.array(z.string()).optional().describe('For `dependency_cycle`: the cycle; ends with its first job'),
  scope: z.string().optional().describe('For `forbidden`: the missing scope'),
  retry_after_seconds: z.int().optional().describe('For `too_many_requests`: same as `Retry-After`'),
});

export type Problem = z.output<typeof problem>;

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

/** The headers of a problem. */
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
  // drizzle wraps the error of a query that was refused because too many others waited.
  if (error instanceof Error && error.cause instanceof AppError) return error.cause;
  return fromExpress(error, request) ?? fromPostgres(error) ?? internal(error);
}

/** Express gives its errors about a request (an invalid escape in the path, an invalid range) a status below 500. */
function fromExpress(error: unknown, request: Request): AppError | undefined {
  if (!(error instanceof Error) || !('status' in error)) return undefined;
  const { status, message } = error;
  if (status === 404) return notFound(request.path);
  if (typeof status !== 'number' || status < 400 || status >= 500) return undefined;
  return new AppError(EXPRESS_CODES[status] ?? 'invalid_request', message, { status });
}

function fromPostgres(error: unknown): AppError | undefined {
  if (isLockTimeout(error)) {
    return new AppError('unavailable', 'another change is in progress: try again later', { status: 503 });
  }
  if (isStatementTimeout(error)) {
    return new AppError('unavailable', 'the query took too long: add filters, or try again later', { status: 503 });
  }
  if (isOutage(error)) {
    return new AppError('unavailable', 'the database is unreachable: try again later', { status: 503, cause: error });
  }
  return undefined;
}
