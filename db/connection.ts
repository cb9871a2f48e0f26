import { Socket } from 'node:net';
import type { ClientConfig } from 'pg';

/** Until a connection is made and may be used. */
const CONNECT_MS = 10_000;
/** Until a goodbye is answered. */
const GOODBYE_MS = 1_000;

/**
 * What all connections to Postgres have in common: none waits for ever for a host that has gone without a word, cut off or
 * without power. On our side the kernel probes what is idle, and gives it up after 20 s. What waits for an answer it would
 * leave alone for a quarter of an hour: a connection on which nothing moves for `silentMs` is given up, so that must be
 * longer than a statement may take, and be left out where silence is no sign. On the other side Postgres, which would keep our
 * locks for two hours, gives us up after 30 s.
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
      const giveUp = () => socket.destroy(Object.assign(new Error('Postgres does not answer'), { code: 'ETIMEDOUT' }));
      socket.on('timeout', giveUp).setTimeout(silentMs);
      socket.on('finish', () => socket.setTimeout(GOODBYE_MS));
      return socket;
    },
  } satisfies ClientConfig;
}
