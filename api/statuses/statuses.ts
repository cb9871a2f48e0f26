import { setTimeout as delay } from 'node:timers/promises';
import type { Database } from '../../db/client.ts';
import { findJobDetails } from '../../db/jobs.ts';
import { openPresence } from '../../db/presence.ts';
import { findUploads } from '../../db/uploads.ts';
import { AppError } from '../../errors.ts';
import type { Logger } from '../../log.ts';
import type { Changes } from '../changes.ts';
import { jobDetail, statusDocument } from '../documents.ts';
import type { EventHub } from '../event-hub.ts';
import { askTogether } from './ask.ts';
import type { Copy, Known } from './copy.ts';
import { createMemoryCopy } from './memory-copy.ts';
import { openRedisCopy } from './redis-copy.ts';
import { createStanding, LEASE_MS } from './standing.ts';

/** Without a read for this long, nothing is kept up to date any more; the next read begins anew. */
const IDLE_MS = 10_000;
const RECONNECT_MS = 1_000;
/** How long a read waits until this process has left a Redis that is away. */
const LEAVE_MS = 5_000;

export const uploadKey = (id: string) => `upload:${id}`;
export const jobKey = (id: string) => `job:${id}`;

export type Statuses = Awaited<ReturnType<typeof openStatuses>>;

/**
 * The statuses of uploads and jobs, from a copy: in Redis where there is one, else in memory, else (see standing.ts) from
 * Postgres. Resolves once it may be asked. The owner calls `close()`.
 */
export async function openStatuses({
  db,
  databaseUrl,
  redisUrl,
  hub,
  log,
}: {
  db: Database;
  databaseUrl: string;
  redisUrl: string | undefined;
  hub: EventHub;
  log: Logger;
}) {
  const memory = createMemoryCopy();
  let copy: Copy = memory;
  /** Pending from the moment that the copy fails until this process answers from another. */
  let left: PromiseWithResolvers<void> | undefined;
  const closing = new AbortController();
  const presence = openPresence(databaseUrl, log);
  const standing = createStanding(presence, () => copy.clear());
  const stopListening = hub.onChange(onChange);
  let readAt = -Infinity;
  let keeping: NodeJS.Timeout | undefined;

  const askUpload = askTogether(async (ids) => {
    const rows = await findUploads(db, ids);
    return new Map(rows.map((row) => [row.id, knownOf(row, row.finishedAt, statusDocument(row))]));
  });
  const askJob = askTogether(async (ids) => {
    const details = await findJobDetails(db, ids);
    return new Map(
      details.map(({ job, dependsOn, attempts }) => [
        job.id,
        knownOf(job, job.finishedAt, jobDetail(job, dependsOn, null, attempts)),
      ]),
    );
  });

  async function read(key: string, ask: () => Promise<Known | undefined>): Promise<Known | undefined> {
    await confirm();
    const from = copy;
    const entry = await tolerate(from, from.look(key));
    if (entry && !('hole' in entry) && from === copy && standing.trusts()) return entry;
    const known = await ask();
    // Since then this process may have gone to another copy, which knows nothing of this hole.
    const to = copy;
    await tolerate(to, to.put(key, known, entry && 'hole' in entry ? entry.hole : undefined));
    return known;
  }

  /** What a copy cannot do is no failure, but then nothing is answered before all others know that we have left it. */
  async function tolerate<Result>(from: Copy, result: Promise<Result>): Promise<Result | undefined> {
    try {
      return await result;
    } catch {
      if (from !== copy) return undefined;
      const late = delay(LEAVE_MS, undefined, { ref: false }).then(() => {
        throw new AppError('unavailable', 'statuses cannot be read just now', { status: 503 });
      });
      await Promise.race([left?.promise, late]);
      return undefined;
    }
  }

  async function confirm(): Promise<void> {
    readAt = performance.now();
    keeping ??= setInterval(keepUp, LEASE_MS / 3);
    await standing.confirm();
  }

  /** While there are readers, the own standing is known without asking, and changes are heard. */
  function keepUp(): void {
    if (performance.now() - readAt < IDLE_MS) {
      void standing.check().catch((error) => log.debug({ err: error }, 'standing not known'));
      return;
    }
    clearInterval(keeping);
    keeping = undefined;
    standing.distrust();
  }

  async function onChange(changes: Changes): Promise<void> {
    const from = copy;
    const dropped =
      changes === 'all'
        ? from.clear()
        : from.drop([...changes.jobIds.map(jobKey), ...changes.uploadIds.map(uploadKey)]);
    await tolerate(from, dropped).catch((error) => log.warn({ err: error }, 'changes not told'));
  }

  async function useRedis(url: string): Promise<void> {
    while (!closing.signal.aborted) {
      const redis = await openRedisCopy(url, log).catch((error) => void log.warn({ err: error }, 'no redis'));
      if (redis) {
        await untilDone(() => standing.moveTo(redis.id));
        left = Promise.withResolvers();
        copy = redis;
        await Promise.race([redis.lost, aborted(closing.signal)]);
        await untilDone(() => standing.moveTo(memory.id));
        copy = memory;
        left.resolve();
        redis.close();
      }
      await pause(RECONNECT_MS);
    }
  }

  async function untilDone(work: () => Promise<void>): Promise<void> {
    while (!closing.signal.aborted) {
      try {
        return await work();
      } catch (error) {
        log.warn({ err: error }, 'standing not changed');
        await pause(LEASE_MS);
      }
    }
  }

  const pause = (ms: number) => delay(ms, undefined, { signal: closing.signal }).catch(() => undefined);

  await standing.moveTo(memory.id);
  const running = redisUrl === undefined ? Promise.resolve() : useRedis(redisUrl);

  return {
    /** The status document of an upload; undefined where there is none. */
    upload: (id: string) => read(uploadKey(id), () => askUpload(id)),
    /** The document of a job with its attempts, without a position. */
    job: (id: string) => read(jobKey(id), () => askJob(id)),
    /**
     * To be awaited before an answer that says something of these which it has not from here, or after a change of them:
     * nothing older is read from here afterwards.
     */
    async forget(keys: string[]): Promise<void> {
      await confirm();
      const from = copy;
      await tolerate(from, from.drop(keys));
    },
    /** After a change of who knows how many: nothing older than that is read from here afterwards. */
    async forgetAll(): Promise<void> {
      await confirm();
      const from = copy;
      await tolerate(from, from.clear());
    },
    async close(): Promise<void> {
      closing.abort();
      stopListening();
      clearInterval(keeping);
      await running;
      await presence.close();
    },
  };
}

function knownOf(
  { version, owner }: { version: number; owner: string | null },
  finishedAt: Date | null,
  body: Record<string, unknown>,
): Known {
  return { version, owner, done: finishedAt !== null, body };
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}
