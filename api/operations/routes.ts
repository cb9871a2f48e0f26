import { Router } from 'express';
import { register } from 'prom-client';
import { type Database, isReadOnly } from '../../db/client.ts';
import { isMigrated } from '../../db/migrate.ts';
import { listConverters, queueDepths, recentAbnormalEnds, recentThroughput } from '../../db/system.ts';
import { AppError } from '../../runtime/errors.ts';
import type { Store } from '../../store/store.ts';
import { systemDocument } from '../documents.ts';
import { callerOf } from '../http/admission.ts';
import { shareFor } from '../http/share.ts';
import { readMetrics } from './metrics.ts';

const THROUGHPUT_MINUTES = 10;
const MAX_ABNORMAL_ENDS = 20;
/** Ready jobs of a shape are counted up to here: the answer costs about the same however many there are. */
const MAX_DEPTH = 1_000;
/** One count of ready jobs serves all requests of this time. */
const QUEUES_SHARED_MS = 1_000;

/** Whether the process lives, and whether it can do its work: Postgres answers, is migrated, and the store can be written. */
export function operationRoutes({ db, heavyDb, store }: { db: Database; heavyDb: Database; store: Store }): Router {
  const router = Router();
  const readQueues = shareFor(QUEUES_SHARED_MS, () => queueDepths(heavyDb, MAX_DEPTH));

  router.get('/health/live', (_request, response) => {
    response.json({ status: 'ok' });
  });

  router.get('/health/ready', async (_request, response) => {
    const fails = (what: string) => (cause: unknown) => {
      throw new AppError('unavailable', `${what} is not ready`, { status: 503, cause });
    };
    const migrated = await isMigrated(db).catch(fails('Postgres'));
    if (!migrated) fails('the database schema')('migrations are missing');
    if (await isReadOnly(db).catch(fails('Postgres'))) fails('Postgres')('the server is read-only');
    await store.check().catch(fails('the store'));
    response.json({ status: 'ok', checks: { postgres: 'ok', migrations: 'ok', store: 'ok' } });
  });

  router.get('/system', async (request, response) => {
    const [live, queues, minutes, deaths] = await Promise.all([
      listConverters(heavyDb),
      readQueues(),
      recentThroughput(heavyDb, THROUGHPUT_MINUTES),
      recentAbnormalEnds(heavyDb, { owner: callerOf(request).sees, limit: MAX_ABNORMAL_ENDS }),
    ]);
    response.json(systemDocument(live, queues, minutes, deaths));
  });

  router.get('/metrics', async (_request, response) => {
    response.type(register.contentType).send(await readMetrics(db));
  });

  return router;
}
