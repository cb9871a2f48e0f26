import { randomUUID } from 'node:crypto';
import type { QueuedJob } from '../../db/jobs.ts';
import type { Logger } from '../../runtime/log.ts';

const TTL_MS = 60_000;
const TIMEOUT_MS = 50;
const CONNECT_TIMEOUT_MS = 1_000;
const MAX_CHARACTERS = 8_192;
/** Commands that may wait for an answer of Redis; more count as failed at once. */
const MAX_COMMANDS = 1_000;
/** Names the generation of all entries. An entry of another generation is invalid. */
const GENERATION = '{sheetmill}:generation';
const GENERATION_LENGTH = 36;

/** The answer for an upload or a job, and the owner who may read it. */
export interface StatusDocument {
  owner: string | null;
  done: boolean;
  /** True if it stays as it is until `invalidate` is called. */
  isCacheable: boolean;
  body: Record<string, unknown>;
  /** A job whose position in the queue is counted for each answer, since it changes with what others do. */
  queued?: QueuedJob | undefined;
}

export interface StatusCache {
  /** Gives the cached document; else the document that `read` gives, which is cached if it is cacheable and small. */
  through(key: string, read: () => Promise<StatusDocument | undefined>): Promise<StatusDocument | undefined>;
  /** Invalidates all documents, since a retry or a deletion changes an unknown number of them. Never throws. */
  invalidate(): Promise<void>;
  close(): void;
}

export const uploadKey = (id: string) => `upload:${id}`;
export const jobKey = (id: string) => `job:${id}`;

/**
 * Caches the status documents of ended uploads and jobs in the Redis at `url`; without a `url` nothing is cached. An error
 * of Redis counts as a miss. The generation is read before Postgres, so that a retry meanwhile makes the entry invalid.
 */
export async function openStatusCache(url: string | undefined, log: Logger): Promise<StatusCache> {
  if (url === undefined) {
    return { through: (_key, read) => read(), invalidate: async () => undefined, close: () => undefined };
  }
  // Half of the modules of the API, which most services do without.
  const { createClient } = await import('@redis/client');
  const client = createClient({
    url,
    name: 'sheetmill',
    disableOfflineQueue: true,
    commandsQueueMaxLength: MAX_COMMANDS,
    pingInterval: CONNECT_TIMEOUT_MS,
    socket: { connectTimeout: CONNECT_TIMEOUT_MS, socketTimeout: 2 * CONNECT_TIMEOUT_MS },
  });
  client.on('error', (error) => log.warn({ err: error }, 'redis connection failed'));
  client.connect().catch((error) => log.debug({ err: error }, 'redis connection closed'));

  return {
    async through(key, read) {
      const entryKey = `{sheetmill}:${key}`;
      const [generation, entry] = await within(client.mGet([GENERATION, entryKey])).catch(() => []);
      if (generation && entry?.startsWith(generation)) return JSON.parse(entry.slice(GENERATION_LENGTH));
      const found = await read();
      if (!found?.isCacheable || generation === undefined) return found;
      const text = JSON.stringify(found);
      if (generation === null) void client.set(GENERATION, randomUUID(), { NX: true }).catch(() => undefined);
      else if (text.length <= MAX_CHARACTERS) {
        void client.set(entryKey, generation + text, { PX: TTL_MS }).catch(() => undefined);
      }
      return found;
    },
    async invalidate() {
      await within(client.set(GENERATION, randomUUID())).catch((error) =>
        log.warn({ err: error }, 'status cache not invalidated: entries stay valid until they expire'),
      );
    },
    close: () => client.destroy(),
  };
}

async function within<Reply>(reply: Promise<Reply>): Promise<Reply> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(`redis did not answer within ${TIMEOUT_MS} ms`)), TIMEOUT_MS);
  return Promise.race([reply, late.promise]).finally(() => clearTimeout(timer));
}
