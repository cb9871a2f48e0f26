import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { configOrExit, exitWithReason, requireAuth, requireDatabaseUrl } from '../config.ts';
import { openDatabase, whenReachable } from '../db/client.ts';
import { migrateDatabase } from '../db/migrate.ts';
import { openQueues } from '../db/queues.ts';
import { openReplica } from '../db/replica.ts';
import { registerJobTypes } from '../jobs/job-types.ts';
import { createLogger } from '../log.ts';
import { onShutdown } from '../shutdown.ts';
import { openStore } from '../store/open.ts';
import { loadTasks } from '../tasks/registry.ts';
import { startTracing } from '../tracing.ts';
import { createAdmission } from './admission.ts';
import { createApp } from './app.ts';
import { createEventHub } from './event-hub.ts';
import { warnOfLag } from './events-lag.ts';
import { watchProcess } from './metrics.ts';
import { followSchedules } from './schedules.ts';
import { openStatusCache } from './status-cache.ts';
import { attachStream } from './stream.ts';
import { createWaiting } from './waiting.ts';
import { deliverWebhooks } from './webhooks/deliver.ts';
import { createGuard } from './webhooks/guard.ts';
import { webhookSecrets } from './webhooks/secrets.ts';

/** A connection on which nothing moves for this long is closed; a slow upload that moves goes on. */
const IDLE_MS = 60_000;
const LIMITS = {
  /** Until the headers of a request are complete, from its first byte, or from the start of a connection that sends none. */
  headersTimeout: 10_000,
  requestTimeout: 3_600_000,
  /** How often the two are looked at. */
  connectionsCheckingInterval: 1_000,
  maxHeaderSize: 16_384,
};
const MOST_HEADERS = 100;
const MOST_CONNECTIONS = 4_000;

/** One API process. */
const config = configOrExit(process.env);
requireAuth(config);
const databaseUrl = requireDatabaseUrl(config);
const log = createLogger(config.LOG_LEVEL, { process: 'api' });

const tasks = await loadTasks(config.TASKS).catch(exitWithReason);
const flushSpans = await startTracing('sheetmill-api', config, log);

const database = await openDatabase(databaseUrl, { name: 'sheetmill-api', log }).catch(exitWithReason);
await migrateDatabase(databaseUrl).catch(exitWithReason);
watchProcess(database.db);
const replica = openReplica(database.db, config.DATABASE_READ_URL, log);
const queues = await whenReachable(() => openQueues(database.db, { supervise: false, log }));
// Before any job of a type that has limits is stored.
await whenReachable(() => registerJobTypes(database.db, tasks.values()));
const store = await openStore(config);
const admit = createAdmission(config);
const guard = createGuard(config);
const secrets = await webhookSecrets(config);
const webhooks = deliverWebhooks({ db: database.db, guard, secrets, log });
const schedules = followSchedules(database.db, queues, log);
const hub = createEventHub({ db: database.db, databaseUrl, log });
const cache = await openStatusCache(config.REDIS_URL, log);
const waiting = createWaiting(hub);
const lagWarnings = warnOfLag(database.db, log);
const app = createApp({
  db: database.db,
  read: replica.read,
  queues,
  store,
  tasks,
  guard,
  config,
  admit,
  log,
  cache,
  waiting,
});

const server = createServer(LIMITS, app);
server.maxHeadersCount = MOST_HEADERS;
server.maxConnections = MOST_CONNECTIONS;
server.setTimeout(IDLE_MS);
const stream = attachStream(server, hub, admit, log);
server.listen(config.PORT, config.HOST);
await once(server, 'listening');
const { port } = server.address() as AddressInfo;
const host = config.HOST.includes(':') ? `[${config.HOST}]` : config.HOST;
const url = `http://${host}:${port}`;
log.info({ url }, 'api started');
process.send?.({ kind: 'ready', url });

const graceMs = config.SHUTDOWN_GRACE_SECONDS * 1000;
onShutdown(graceMs + 10_000, async ({ err }) => {
  if (err) log.fatal({ err }, 'api fails');
  const closed = new Promise((resolve) => server.close(resolve));
  const delivered = webhooks.close(err ? 0 : graceMs);
  const submitted = schedules.close();
  server.closeIdleConnections();
  waiting.close();
  await Promise.all([stream.close(), hub.close()]);
  const cutOff = setTimeout(() => server.closeAllConnections(), err ? 0 : graceMs);
  await Promise.all([closed, delivered, submitted]);
  clearTimeout(cutOff);
  await lagWarnings.close();
  cache.close();
  await queues.close();
  await Promise.all([database.close(), replica.close(), flushSpans()]);
});
// Started by `npm start`, it ends with its parent: the embedded Postgres does, too.
process.on('disconnect', () => process.exit(1));
