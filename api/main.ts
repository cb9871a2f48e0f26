import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { conversionDomain } from '../conversion/domain.ts';
import { loadTasks } from '../conversion/registry.ts';
import { openDatabase, whenReachable } from '../db/client.ts';
import { migrateDatabase } from '../db/migrate.ts';
import { openQueues } from '../db/queues.ts';
import { openReplica } from '../db/replica.ts';
import { registerDomain } from '../jobs/domain.ts';
import { registerJobTypes } from '../jobs/register-types.ts';
import { configOrExit, exitWithReason, requireAuth, requireDatabaseUrl } from '../runtime/config.ts';
import { hideProcessMemory } from '../runtime/libc.ts';
import { createLogger } from '../runtime/log.ts';
import { followParent } from '../runtime/parent.ts';
import { takeEnvironment } from '../runtime/secrets.ts';
import { onShutdown } from '../runtime/shutdown.ts';
import { startTracing } from '../runtime/tracing.ts';
import { openStore } from '../store/open.ts';
import { createApp } from './app.ts';
import { createEventHub } from './events/event-hub.ts';
import { warnOfLag } from './events/events-lag.ts';
import { attachStream } from './events/stream.ts';
import { createAdmission } from './http/admission.ts';
import { createConnections } from './http/connections.ts';
import { currentHolder } from './http/holder.ts';
import { createWaiting } from './http/long-poll.ts';
import { createOrigins } from './http/origins.ts';
import { openStatusCache } from './http/status-cache.ts';
import { followSchedules } from './jobs/schedule-runner.ts';
import { watchProcess } from './operations/metrics.ts';
import { deliverWebhooks } from './webhooks/deliver.ts';
import { webhookSecrets } from './webhooks/sign.ts';
import { createGuard } from './webhooks/ssrf-guard.ts';

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
const MAX_HEADERS = 100;
const CONNECTIONS = { maxConnections: 4_000, maxUnknownPerAddress: 1_000 };
/** How long a request waits for a row that another transaction has locked. */
const LOCK_MS = 5_000;
/** Searches, graphs, counts and the history of streams. */
const MAX_HEAVY_QUERIES = 4;
const HEAVY_STATEMENT_MS = 5_000;

/** One API process. */
followParent();
const config = configOrExit(await takeEnvironment());
requireAuth(config);
const databaseUrl = requireDatabaseUrl(config);
const log = createLogger(config.LOG_LEVEL, { process: 'api' });
await hideProcessMemory(log);

registerDomain(conversionDomain);
const tasks = await loadTasks(config.TASKS).catch(exitWithReason);
const flushSpans = await startTracing('sheetmill-api', config, log);

const database = await openDatabase(databaseUrl, {
  name: 'sheetmill-api',
  log,
  lockMs: LOCK_MS,
  holderOf: currentHolder,
}).catch(exitWithReason);
const heavy = await openDatabase(databaseUrl, {
  name: 'sheetmill-api-heavy',
  log,
  max: MAX_HEAVY_QUERIES,
  statementMs: HEAVY_STATEMENT_MS,
  holderOf: currentHolder,
}).catch(exitWithReason);
await migrateDatabase(databaseUrl).catch(exitWithReason);
watchProcess(database.db);
const replica = openReplica(database.db, config.DATABASE_READ_URL, log, currentHolder);
const queues = await whenReachable(() => openQueues(database.db, { supervise: false, log }));
// Before any job of a type that has limits is stored.
await whenReachable(() => registerJobTypes(database.db, tasks.values()));
const store = await openStore(config);
const origins = createOrigins(config);
const connections = createConnections(CONNECTIONS);
const admit = createAdmission(config, ({ socket }) => connections.trust(socket));
const guard = createGuard(config);
const secrets = await webhookSecrets(config);
const webhooks = deliverWebhooks({ db: database.db, guard, secrets, log });
const schedules = followSchedules(database.db, queues, log);
const hub = createEventHub({ db: database.db, heavyDb: heavy.db, databaseUrl, log });
const cache = await openStatusCache(config.REDIS_URL, log);
const waiting = createWaiting(hub);
const lagWarnings = warnOfLag(database.db, log);
const app = createApp({
  db: database.db,
  heavyDb: heavy.db,
  read: replica.read,
  queues,
  store,
  tasks,
  guard,
  config,
  origins,
  admit,
  log,
  cache,
  waiting,
});

const server = createServer(LIMITS, app);
server.maxHeadersCount = MAX_HEADERS;
connections.watch(server);
server.setTimeout(IDLE_MS);
const stream = attachStream(server, hub, { origins, admit }, log);
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
  await Promise.all([database.close(), heavy.close(), replica.close(), flushSpans()]);
});
