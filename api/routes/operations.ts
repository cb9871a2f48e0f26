import { Router } from 'express';
import { Gauge, Registry } from 'prom-client';
import type { Database } from '../../db/client.ts';
import { isMigrated } from '../../db/migrate.ts';
import { DEEPEST_QUEUE, listConverters, queueDepths, recentThroughput } from '../../db/system.ts';
import { AppError } from '../../errors.ts';
import type { Store } from '../../store/store.ts';
import { systemDocument } from '../documents.ts';

const THROUGHPUT_MINUTES = 10;

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
    await store.check().catch(fails('the store'));
    response.json({ status: 'ok', checks: { postgres: 'ok', migrations: 'ok', store: 'ok' } });
  });

  router.get('/system', async (_request, response) => {
    const [live, queues, minutes] = await Promise.all([
      listConverters(db),
      queueDepths(db),
      recentThroughput(db, THROUGHPUT_MINUTES),
    ]);
    response.json(systemDocument(live, queues, minutes));
  });

  router.get('/metrics', async (_request, response) => {
    const [live, queues, minutes] = await Promise.all([listConverters(db), queueDepths(db), recentThroughput(db, 1)]);
    const registry = metricsOf(live, queues, minutes);
    response.type(registry.contentType).send(await registry.metrics());
  });

  return router;
}

type Rows<Query extends (...args: never[]) => Promise<unknown>> = Awaited<ReturnType<Query>>;

/** What Postgres knows just now, for Prometheus: every API answers the same. */
function metricsOf(
  live: Rows<typeof listConverters>,
  queues: Rows<typeof queueDepths>,
  minutes: Rows<typeof recentThroughput>,
): Registry {
  const registry = new Registry();
  const gauge = <Label extends string>(name: string, help: string, labelNames: readonly Label[]) =>
    new Gauge({ name: `sheetmill_${name}`, help, labelNames, registers: [registry] });
  const capacity = gauge('capacity_memory_mb', 'Memory that a converter may reserve', ['converter']);
  const reserved = gauge('reserved_memory_mb', 'Memory that its running jobs have reserved', ['converter']);
  for (const { name, memoryMb, reservedMemoryMb } of live) {
    capacity.set({ converter: name }, memoryMb);
    reserved.set({ converter: name }, reservedMemoryMb);
  }
  const shape = ['cpu_units', 'memory_mb'] as const;
  const depth = gauge('queue_depth', `Ready jobs of a shape, counted up to ${DEEPEST_QUEUE}`, shape);
  const age = gauge('queue_oldest_seconds', 'How long the oldest of them has been ready', shape);
  for (const { cpuUnits, memoryMb, depth: jobs, oldestAgeSeconds } of queues) {
    depth.set({ cpu_units: cpuUnits, memory_mb: memoryMb }, jobs);
    age.set({ cpu_units: cpuUnits, memory_mb: memoryMb }, oldestAgeSeconds);
  }
  const peak = gauge('peak_memory_mb', 'Highest peak memory of the attempts that ended in the last minute', []);
  peak.set(Math.max(0, ...minutes.map(({ peak_memory_mb }) => peak_memory_mb ?? 0)));
  return registry;
}
