import type { Request, RequestHandler, Response } from 'express';
import type { Config } from '../../runtime/config.ts';
import { AppError } from '../../runtime/errors.ts';
import type { Store } from '../../store/store.ts';
import { ONE_JOB, type QueueBounds } from '../jobs/queue-bounds.ts';
import { callerOf, stopReading } from './admission.ts';

/** The free room of the store is good for this long: refusing must stay cheap, and a burst within it is small. */
const GOOD_FOR_MS = 500;

/**
 * Refuses an upload before its body is read: 503 while the store has less room than MIN_FREE_MB, and beyond the bounds of
 * the queue. Room for its first job is reserved until the request ends.
 */
export function refuseOverload({
  bounds,
  store,
  config,
}: {
  bounds: QueueBounds;
  store: Store;
  config: Pick<Config, 'MIN_FREE_MB'>;
}): RequestHandler {
  let known: { freeMb: Promise<number>; until: number } | undefined;

  return async function refuseWhenOverloaded(request, response, next) {
    if (known === undefined || known.until < performance.now()) {
      known = { freeMb: store.freeMb(), until: performance.now() + GOOD_FOR_MS };
    }
    if ((await known.freeMb) < config.MIN_FREE_MB) {
      stopReading(request, response);
      throw new AppError('unavailable', 'the store is nearly full: send it again later', { status: 503 });
    }
    // Heard from now on: a client may go away meanwhile.
    const closed = new Promise((resolve) => response.once('close', resolve));
    const release = await bounds.reserve(callerOf(request).owner, ONE_JOB).catch(refusing(request, response));
    void closed.then(release);
    next();
  };
}

/** Refuses jobs, before their body is read, while not even one more may wait. */
export function refuseFull(bounds: QueueBounds): RequestHandler {
  return async function refuseWhenFull(request, response, next) {
    await bounds.check(callerOf(request).owner).catch(refusing(request, response));
    next();
  };
}

function refusing(request: Request, response: Response): (error: unknown) => never {
  return (error) => {
    stopReading(request, response);
    throw error;
  };
}
