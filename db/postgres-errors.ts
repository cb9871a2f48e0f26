import { SemaphoreTimeout } from '../runtime/fair-semaphore.ts';

const READ_ONLY_TRANSACTION = '25006';
const LOCK_NOT_AVAILABLE = '55P03';
const QUERY_CANCELED = '57014';

/**
 * Network codes, and the classes 08 (connection), 53 (resources), 57 (shutdown) and 25006 (a failover) of Postgres. A
 * statement that timed out (57014) or that Postgres cannot parse (08P01) would fail again.
 */
const OUTAGE_CODES = /^(08(?!P01)|53|57(?!014)|25006|ECONN|EHOST|ENET|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN)/;
/** The client library's own errors have no code. */
const OUTAGE_MESSAGES =
  /^(Connection terminated|timeout exceeded when trying to connect|Client has encountered a connection)/;

/** True if a query failed because the database was out of reach or no connection was free: a retry may succeed. */
export function isOutage(error: unknown): boolean {
  const { message } = innermost(error);
  const isBusy = innermost(error) instanceof SemaphoreTimeout;
  return isBusy || OUTAGE_CODES.test(postgresCode(error)) || OUTAGE_MESSAGES.test(String(message ?? ''));
}

/** True if a statement waited too long for another transaction's lock. */
export function isLockTimeout(error: unknown): boolean {
  return postgresCode(error) === LOCK_NOT_AVAILABLE;
}

export function isStatementTimeout(error: unknown): boolean {
  return postgresCode(error) === QUERY_CANCELED;
}

/** True if a write reached a server that takes none: a standby, or a primary that was demoted. */
export function isRefusedWrite(error: unknown): boolean {
  return postgresCode(error) === READ_ONLY_TRANSACTION;
}

/** The SQLSTATE of an error from Postgres, or the network's code; empty for others. */
export function postgresCode(error: unknown): string {
  return String(innermost(error).code ?? '');
}

/** The error of Postgres or of the client library, which drizzle wraps. */
function innermost(error: unknown): { code?: unknown; message?: unknown } {
  const inner = error instanceof Error && error.cause !== undefined ? error.cause : error;
  return typeof inner === 'object' && inner !== null ? inner : {};
}
