/** The errors of the command line and of the client, and the exit code of each. */

/** The command line is wrong. */
export class UsageError extends Error {}

/** The embedded service did not start. */
export class StartError extends Error {}

/** The service refused a call. `message` is the problem's `detail`. */
export class ProblemError extends Error {
  readonly status: number;
  readonly code: string;
  readonly detail: string;
  readonly request_id: string | null;
  /** The whole problem document: some codes have further members, such as `cycle`. */
  readonly problem: Record<string, unknown>;
  /** The delay that the service asks for; null if it names none. */
  readonly retryAfterMs: number | null;

  constructor(status: number, problem: Record<string, unknown>, retryAfterMs: number | null = null) {
    const detail = typeof problem.detail === 'string' ? problem.detail : `unexpected HTTP status ${status}`;
    super(detail);
    this.name = 'ProblemError';
    this.status = status;
    this.code = typeof problem.code === 'string' ? problem.code : 'unexpected_answer';
    this.detail = detail;
    this.request_id = typeof problem.request_id === 'string' ? problem.request_id : null;
    this.problem = problem;
    this.retryAfterMs = retryAfterMs;
  }
}

/** The service sent no complete answer. */
export class UnreachableError extends Error {
  override readonly name = 'UnreachableError';
  /** True if the connection was refused, so the service did nothing. */
  readonly isRefused: boolean;

  constructor(url: string, cause: unknown) {
    const code = codeOf(cause);
    super(`${url} cannot be reached: ${messageOf(cause) || code || 'connection lost'}`, { cause });
    this.isRefused = code === 'ECONNREFUSED';
  }
}

/** Scripts rely on these codes; `sheetmill --help` lists them. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof UsageError) return 2;
  if (error instanceof UnreachableError || error instanceof StartError) return 3;
  if (error instanceof ProblemError && (error.status === 401 || error.status === 403)) return 4;
  return 1;
}

/** An error as `--json` shows it. */
export interface Failure {
  code: string;
  message: string;
}

export function failureOf(error: unknown): Failure {
  const isUnreachable = error instanceof UnreachableError || error instanceof StartError;
  return { code: isUnreachable ? 'unreachable' : (codeOf(error) ?? 'internal'), message: messageOf(error) };
}

export function messageOf(error: unknown): string {
  const message = memberOf(error, 'message');
  return typeof message === 'string' ? message : '';
}

export function codeOf(error: unknown): string | undefined {
  const code = memberOf(error, 'code');
  return typeof code === 'string' ? code : undefined;
}

function memberOf(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;
}
