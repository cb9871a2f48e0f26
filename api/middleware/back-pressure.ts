import type { RequestHandler } from 'express';
import type { Config } from '../../config.ts';
import type { Database } from '../../db/client.ts';
import { hasBacklog } from '../../db/jobs.ts';
import { AppError } from '../../errors.ts';
import type { Store } from '../../store/store.ts';
import { stopReading } from '../admission.ts';

/** What was found out is good for this long: refusing must stay cheap, and a burst within it is small. */
const GOOD_FOR_MS = 500;

/**
 * Refuses what would only wait or fill the disk, before its body is read: 503 while more jobs wait than MAX_QUEUED_JOBS,
 * or the store has less room than MIN_FREE_MB. What was accepted before goes on.
 */
export function refuseOverload({
  db,
  store,
  config,
}: {
  db: Database;
  store: Store;
  config: Pick<Config, 'MAX_QUEUED_JOBS' | 'MIN_FREE_MB'>;
}): RequestHandler {
  let known: { reason: Promise<string | undefined>; until: number } | undefined;

  async function findReason(): Promise<string | undefined> {
    if ((await store.freeMb()) < config.MIN_FREE_MB) return 'the store is nearly full';
    if (await hasBacklog(db, config.MAX_QUEUED_JOBS)) return `more than ${config.MAX_QUEUED_JOBS} jobs wait already`;
    return undefined;
  }

  return async function refuseWhenOverloaded(request, response, next) {
    if (known === undefined || known.until < performance.now()) {
      known = { reason: findReason(), until: performance.now() + GOOD_FOR_MS };
    }
    const reason = await known.reason;
    if (reason === undefined) return next();
    stopReading(request, response);
    throw new AppError('unavailable', `${reason}: send it again later`, { status: 503 });
  };
}
