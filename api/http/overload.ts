import type { RequestHandler } from 'express';
import type { Config } from '../../runtime/config.ts';
import { AppError } from '../../runtime/errors.ts';
import type { Store } from '../../store/store.ts';
import { ONE_JOB, type QueueBounds } from '../jobs/queue-bounds.ts';
import { callerOf } from './request-state.ts';
import { shareFor } from './share.ts';

/** The free space of the store is cached for this long, so that refusals stay cheap. */
const CACHE_MS = 500;

interface OverloadParts {
  bounds: QueueBounds;
  store: Store;
  config: Pick<Config, 'MIN_FREE_MB'>;
}

/**
 * Refuses an upload before its body is read: 503 while the store has less than MIN_FREE_MB free, or when the queue is full.
 * Reserves a place in the queue until the request ends.
 */
export function refuseOverload({ bounds, store, config }: OverloadParts): RequestHandler {
  const readFreeMb = shareFor(CACHE_MS, () => store.freeMb());

  return async function refuseWhenOverloaded(request, response, next) {
    if ((await readFreeMb()) < config.MIN_FREE_MB) {
      throw new AppError('unavailable', 'the store is nearly full: try again later', { status: 503 });
    }
    // Listen before the reservation: the client may disconnect meanwhile.
    const closed = new Promise((resolve) => response.once('close', resolve));
    const release = await bounds.reserve(callerOf(request).owner, ONE_JOB);
    void closed.then(release);
    next();
  };
}

/** Refuses jobs before their body is read while the queue is full. */
export function refuseFull(bounds: QueueBounds): RequestHandler {
  return async function refuseWhenFull(request, _response, next) {
    await bounds.check(callerOf(request).owner);
    next();
  };
}
