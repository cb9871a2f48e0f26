import { Socket } from 'node:net';
import type { ClientConfig } from 'pg';

/** The timeout of a new connection. */
const CONNECT_MS = 10_000;
/** The timeout of the other side's close after ours. */
const CLOSE_MS = 1_000;

/**
 * The settings of all connections to Postgres, which detect a host that is cut off or without power. The kernel closes idle
 * connections to it after 20 s. It would wait a quarter of an hour for an answer, so a connection without traffic for
 * `silentMs` is closed as well: that must exceed the timeout of a statement, and is left out where silence is normal.
 * Postgres closes connections of a lost client after 30 s instead of two hours, and frees their locks.
 */
export function connectionTo(url: string, { name, silentMs = 0 }: { name: string; silentMs?: number }) {
  return {
    connectionString: url,
    application_name: name,
    connectionTimeoutMillis: CONNECT_MS,
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
    options: '-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=4',
    stream() {
      const socket = new Socket();
      const abort = () => socket.destroy(Object.assign(new Error('Postgres does not answer'), { code: 'ETIMEDOUT' }));
      socket.on('timeout', abort).setTimeout(silentMs);
      socket.on('finish', () => socket.setTimeout(CLOSE_MS));
      return socket;
    },
  } satisfies ClientConfig;
}
