/** Codes that clients may rely on: at the edge as the `code` of a problem, on uploads, originals, pages and jobs as `error.code`. */
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

/** An error as it is stored with a row and shown to clients. */
export interface PublicError {
  code: ErrorCode;
  message: string;
}

/**
 * The one error that crosses module borders. `message` is public; the `cause` goes to the log and never to a client.
 * `status` is the HTTP status if it reaches the edge; `retryable` says whether a job that ended with it may run again.
 */
export class AppError extends Error {
  readonly code: ErrorCode;
  readonly status: number;
  readonly retryable: boolean;
  /** When a job that ended with it runs again; undefined leaves that to its backoff. */
  readonly retryAfterSeconds: number | undefined;
  /** Further members of the problem that a client is shown. */
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

/** The message of anything that was thrown. */
export function errorMessage(error: unknown): string {
  return String(memberOf(error, 'message') ?? error);
}

/** Whether an allocation was refused: the words of V8, of WebAssembly, of Skia, of native code that throws, and zlib's code. */
export function isOutOfMemory(error: unknown): boolean {
  const { message, code } = (error ?? {}) as { message?: unknown; code?: unknown };
  return /Z_MEM_ERROR|allocation failed|(could not|failed to) allocate|unable to grow|(out of|insufficient) memory|bad_alloc|surface failed/i.test(
    `${code} ${message}`,
  );
}

/** What may be stored and shown of any error: an AppError's own words, `internal` for everything else. */
export function publicError(error: unknown): PublicError {
  if (error instanceof AppError) return { code: error.code, message: error.message };
  return { code: 'internal', message: 'an unexpected error; the log has the details' };
}
