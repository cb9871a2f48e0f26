import { setTimeout as delay } from 'node:timers/promises';
import { loadTasks } from '../conversion/registry.ts';
import { openDatabase, whenReachable } from '../db/client.ts';
import { migrateDatabase } from '../db/migrate.ts';
import { openQueues } from '../db/queues.ts';
import { configOrExit, exitWithReason, requireDatabaseUrl, withoutApiVariables } from '../runtime/config.ts';
import { hideProcessMemory } from '../runtime/libc.ts';
import { createLogger } from '../runtime/log.ts';
import { followParent } from '../runtime/parent.ts';
import { takeEnvironment } from '../runtime/secrets.ts';
import { onShutdown } from '../runtime/shutdown.ts';
import { startTracing } from '../runtime/tracing.ts';
import { openStore } from '../store/open.ts';
import { serveMetrics } from './metrics.ts';
import { persist } from './retry-until-stored.ts';
import { startWorker } from './worker.ts';

/** A converter counts as ready after this time, even if its sandboxes are not warmed up. */
const WARM_MS = 5_000;

/** One converter process. */
followParent();
const config = configOrExit(withoutApiVariables(await takeEnvironment()));
const databaseUrl = requireDatabaseUrl(config);
const log = createLogger(config.LOG_LEVEL, { process: 'converter' });
await hideProcessMemory(log);
const tasks = await loadTasks(config.TASKS).catch(exitWithReason);
const flushSpans = await startTracing('sheetmill-converter', config, log);

const database = await openDatabase(databaseUrl, { name: 'sheetmill-converter', log }).catch(exitWithReason);
await migrateDatabase(databaseUrl).catch(exitWithReason);
const queues = await whenReachable(() => openQueues(database.db, { supervise: true, log }));
const store = await openStore(config);
const start = () => startWorker({ db: database.db, databaseUrl, queues, store, tasks, config, log });

// The port may be taken, so this comes before the first claim.
const metrics =
  config.METRICS_PORT === undefined
    ? undefined
    : await serveMetrics(config.METRICS_PORT, database.pool, log).catch(exitWithReason);
let worker = await whenReachable(start);
const closing = new AbortController();
const isReady = Promise.race([worker.warm, delay(WARM_MS, undefined, { ref: false })]);
void isReady.then(() => process.send?.({ kind: 'ready', metricsPort: metrics?.port }));

const graceMs = config.SHUTDOWN_GRACE_SECONDS * 1000;
onShutdown(graceMs + 10_000, async ({ err }) => {
  if (err) log.fatal({ err }, 'unhandled error, shutting down');
  closing.abort();
  await worker.stop(err ? 0 : graceMs);
  await metrics?.close();
  await queues.close();
  await Promise.all([database.close(), flushSpans()]);
});

for (;;) {
  await worker.lost;
  if (closing.signal.aborted) break;
  log.warn('converter was declared lost, restarting under a new id');
  await worker.stop(0);
  try {
    // An outage of Postgres may be the reason, so this retries.
    worker = await persist(log, closing.signal, start);
  } catch (error) {
    if (!closing.signal.aborted) throw error;
    break;
  }
}
