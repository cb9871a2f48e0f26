import { type Request, type Response, Router } from 'express';
import { register } from 'prom-client';
import type { Database } from '../../db/client.ts';
import { isReadOnly } from '../../db/client.ts';
import { isMigrated } from '../../db/migrate.ts';
import { listConverters, queueDepths, recentAbnormalEnds, recentThroughput } from '../../db/system.ts';
import { AppError } from '../../runtime/errors.ts';
import type { Store } from '../../store/store.ts';
import { callerOf } from '../http/request-state.ts';
import { shareFor } from '../http/share.ts';
import { withParts } from '../http/with-parts.ts';
import { systemDocument } from './documents.ts';
import { readMetrics } from './metrics.ts';

const THROUGHPUT_MINUTES = 10;
const MAX_ABNORMAL_ENDS = 20;
/** Ready jobs of a shape are counted up to this number, so that a long queue costs no more than a short one. */
const MAX_DEPTH = 1_000;
/** All requests within this time share one count of ready jobs. */
const QUEUES_SHARED_MS = 1_000;

interface Parts {
  db: Database;
  heavyDb: Database;
  store: Store;
}

/** Health, the state of the system, and metrics. */
export function operationRoutes(parts: Parts): Router {
  const router = Router();
  const readQueues = shareFor(QUEUES_SHARED_MS, () => queueDepths(parts.heavyDb, MAX_DEPTH));
  const to = withParts({ ...parts, readQueues });
  router.get('/health/live', to(live));
  router.get('/health/ready', to(ready));
  router.get('/system', to(system));
  router.get('/metrics', to(metrics));
  return router;
}

function live(_parts: Parts, _request: Request, response: Response): void {
  response.json({ status: 'ok' });
}

async function ready({ db, store }: Parts, _request: Request, response: Response): Promise<void> {
  if (!(await isMigrated(db).catch(notReady('Postgres')))) notReady('the database schema')('migrations are missing');
  if (await isReadOnly(db).catch(notReady('Postgres'))) notReady('Postgres')('the server is read-only');
  await store.check().catch(notReady('the store'));
  response.json({ status: 'ok', checks: { postgres: 'ok', migrations: 'ok', store: 'ok' } });
}

function notReady(dependency: string): (cause: unknown) => never {
  return (cause) => {
    throw new AppError('unavailable', `${dependency} is not ready`, { status: 503, cause });
  };
}

interface SystemParts extends Parts {
  readQueues(): ReturnType<typeof queueDepths>;
}

async function system({ heavyDb, readQueues }: SystemParts, request: Request, response: Response): Promise<void> {
  const [converters, queues, minutes, deaths] = await Promise.all([
    listConverters(heavyDb),
    readQueues(),
    recentThroughput(heavyDb, THROUGHPUT_MINUTES),
    recentAbnormalEnds(heavyDb, { owner: callerOf(request).sees, limit: MAX_ABNORMAL_ENDS }),
  ]);
  response.json(systemDocument(converters, queues, minutes, deaths));
}

async function metrics({ db }: Parts, _request: Request, response: Response): Promise<void> {
  response.type(register.contentType).send(await readMetrics(db));
}
