import { randomUUID } from 'node:crypto';
import type { QueuedJob } from '../../db/jobs.ts';
import type { Logger } from '../../runtime/log.ts';

const TTL_MS = 60_000;
const COMMAND_TIMEOUT_MS = 50;
const CONNECT_TIMEOUT_MS = 1_000;
const MAX_CHARACTERS = 8_192;
const MAX_QUEUED_COMMANDS = 1_000;
/** The key of the current generation, a UUID. Entries that start with another UUID are invalid. */
const GENERATION = '{sheetmill}:generation';

/** The document of an upload or a job, and the owner who may read it. */
export interface StatusDocument {
  owner: string | null;
  done: boolean;
  /** True if it does not change until `invalidate` is called. */
  isCacheable: boolean;
  body: Record<string, unknown>;
  /** A job whose position in the queue is counted for each answer. */
  queued?: QueuedJob | undefined;
}

export interface StatusCache {
  /** Gives the cached document, else the document that `read` gives, which is then cached if it is cacheable and small. */
  through(key: string, read: () => Promise<StatusDocument | undefined>): Promise<StatusDocument | undefined>;
  /** Invalidates all documents, since a retry or deletion changes an unknown number of them. Never rejects. */
  invalidate(): Promise<void>;
  close(): void;
}

export const uploadKey = (id: string) => `upload:${id}`;
export const jobKey = (id: string) => `job:${id}`;
const ignore = () => undefined;

/**
 * Caches the documents of ended uploads and jobs in the Redis at `url`; without `url` it caches nothing. A Redis error is a
 * miss. The generation is read before Postgres, so that a retry in between makes the entry invalid. The client is loaded only
 * with a `url`: it is half of the modules of the API.
 */
export async function openStatusCache(url: string | undefined, log: Logger): Promise<StatusCache> {
  if (url === undefined) {
    return { through: (_key, read) => read(), invalidate: async () => undefined, close: () => undefined };
  }
  const { createClient } = await import('@redis/client');
  const client = createClient({
    url,
    name: 'sheetmill',
    disableOfflineQueue: true,
    commandsQueueMaxLength: MAX_QUEUED_COMMANDS,
    pingInterval: CONNECT_TIMEOUT_MS,
    socket: { connectTimeout: CONNECT_TIMEOUT_MS, socketTimeout: 2 * CONNECT_TIMEOUT_MS },
  });
  client.on('error', (error) => log.warn({ err: error }, 'redis connection failed'));
  client.connect().catch((error) => log.debug({ err: error }, 'redis connection closed'));
  return {
    async through(key, read) {
      const entryKey = `{sheetmill}:${key}`;
      const [generation, entry] = await within(client.mGet([GENERATION, entryKey])).catch(() => []);
      if (generation && entry?.startsWith(generation)) return JSON.parse(entry.slice(generation.length));
      const found = await read();
      if (!found?.isCacheable || generation === undefined) return found;
      const text = JSON.stringify(found);
      if (generation === null) client.set(GENERATION, randomUUID(), { NX: true }).catch(ignore);
      else if (text.length <= MAX_CHARACTERS) client.set(entryKey, generation + text, { PX: TTL_MS }).catch(ignore);
      return found;
    },
    async invalidate() {
      const warn = (err: unknown) => log.warn({ err }, 'status cache not invalidated: entries stay until they expire');
      await within(client.set(GENERATION, randomUUID())).catch(warn);
    },
    close: () => client.destroy(),
  };
}

async function within<Reply>(reply: Promise<Reply>): Promise<Reply> {
  const timeout = Promise.withResolvers<never>();
  const timer = setTimeout(() => timeout.reject(new Error('redis command timed out')), COMMAND_TIMEOUT_MS);
  return Promise.race([reply, timeout.promise]).finally(() => clearTimeout(timer));
}
