import { Router } from 'express';
import { register } from 'prom-client';
import { type Database, isReadOnly } from '../../db/client.ts';
import { isMigrated } from '../../db/migrate.ts';
import { listConverters, queueDepths, recentDeaths, recentThroughput } from '../../db/system.ts';
import { AppError } from '../../errors.ts';
import type { Store } from '../../store/store.ts';
import { callerOf } from '../admission.ts';
import { systemDocument } from '../documents.ts';
import { readMetrics } from '../metrics.ts';

const THROUGHPUT_MINUTES = 10;
const MOST_DEATHS = 20;

/** Whether the process lives, and whether it can do its work: Postgres answers, is migrated, and the store can be written. */
export function operationRoutes({ db, store }: { db: Database; store: Store }): Router {
  const router = Router();

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
      listConverters(db),
      queueDepths(db),
      recentThroughput(db, THROUGHPUT_MINUTES),
      recentDeaths(db, { owner: callerOf(request).sees, limit: MOST_DEATHS }),
    ]);
    response.json(systemDocument(live, queues, minutes, deaths));
  });

  router.get('/metrics', async (_request, response) => {
    response.type(register.contentType).send(await readMetrics(db));
  });

  return router;
}
