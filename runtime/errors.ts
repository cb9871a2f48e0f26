/** Stable codes for clients: the `code` of a problem, and `error.code` of uploads, originals, pages and jobs. */
export const ERROR_CODES = [
  'invalid_request',
  'unauthorized',
  'forbidden',
  'not_found',
  'conflict',
  'file_too_large',
  'unsupported_media_type',
  'too_many_requests',
  'unavailable',
  'dependency_cycle',
  'unknown_dependency',
  'unknown_upload',
  'exceeds_capacity',
  'forbidden_url',
  'idempotency_mismatch',
  'corrupt_file',
  'unsupported_feature',
  'encrypted_pdf',
  'wrong_password',
  'too_many_pages',
  'too_many_pixels',
  'page_out_of_range',
  'out_of_memory',
  'timeout',
  'converter_lost',
  'sandbox_violation',
  'task_failed',
  'dependency_failed',
  'dependency_completed',
  'internal',
] as const;
export type ErrorCode = (typeof ERROR_CODES)[number];

/** An error as a row stores it and clients see it. */
export interface PublicError {
  code: ErrorCode;
  message: string;
}

/** The one error that crosses module borders. `message` is public; the `cause` is logged and never sent to a client. */
export class AppError extends Error {
  readonly code: ErrorCode;
  /** The HTTP status of a request that fails with it. */
  readonly status: number;
  /** True if a job that failed with it may run again. */
  readonly retryable: boolean;
  /** The delay before that job runs again; undefined leaves the delay to the job's backoff. */
  readonly retryAfterSeconds: number | undefined;
  /** More members of the problem document. */
  readonly details: Record<string, unknown>;

  constructor(
    code: ErrorCode,
    message: string,
    options: {
      status?: number;
      retryable?: boolean;
      retryAfterSeconds?: number;
      details?: Record<string, unknown>;
      cause?: unknown;
    } = {},
  ) {
    super(message, { cause: options.cause });
    this.name = 'AppError';
    this.code = code;
    this.status = options.status ?? 500;
    this.retryable = options.retryable ?? options.retryAfterSeconds !== undefined;
    this.retryAfterSeconds = options.retryAfterSeconds;
    this.details = options.details ?? {};
  }
}

/** A member of a value of unknown type; undefined where there is none. */
export function memberOf(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;
}

/** The `code` of an error from Node, Postgres or a library, such as `ENOENT`; undefined where it has none. */
export function errorCode(error: unknown): string | undefined {
  const code = memberOf(error, 'code');
  return typeof code === 'string' ? code : undefined;
}

/** The text of any value that was thrown or logged; empty for a value without one. */
export function textOf(value: unknown): string {
  try {
    return String(value);
  } catch {
    return '';
  }
}

/** The message of anything that was thrown. */
export function errorMessage(error: unknown): string {
  return textOf(memberOf(error, 'message') ?? error);
}

/** True if an allocation was refused, in the words of V8, WebAssembly, Skia, native code or zlib. */
export function isOutOfMemory(error: unknown): boolean {
  return /Z_MEM_ERROR|allocation failed|(could not|failed to) allocate|unable to grow|(out of|insufficient) memory|bad_alloc|surface failed/i.test(
    `${errorCode(error)} ${errorMessage(error)}`,
  );
}

/** The part of an error that may be stored and shown: an AppError's message, `internal` for everything else. */
export function publicError(error: unknown): PublicError {
  if (error instanceof AppError) return { code: error.code, message: error.message };
  return { code: 'internal', message: 'an unexpected error; the log has the details' };
}
