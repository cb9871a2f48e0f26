import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
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
import { createAuthorize } from './http/authorize.ts';
import { Connections } from './http/connections.ts';
import { LongPoll } from './http/long-poll.ts';
import { Origins } from './http/origins.ts';
import { currentRequester } from './http/requester.ts';
import { openStatusCache } from './http/status-cache.ts';
import { followSchedules } from './jobs/schedule-runner.ts';
import { watchProcess } from './operations/metrics.ts';
import { deliverWebhooks } from './webhooks/deliver.ts';
import { webhookSecrets } from './webhooks/sign.ts';
import { createGuard } from './webhooks/ssrf-guard.ts';

/** A connection without traffic is closed after this time; a slow upload that makes progress continues. */
const IDLE_TIMEOUT_MS = 60_000;
const SERVER_OPTIONS = {
  /** From the first byte of a request, or from the start of a connection that sends none, to the end of the headers. */
  headersTimeout: 10_000,
  requestTimeout: 3_600_000,
  connectionsCheckingInterval: 1_000,
  maxHeaderSize: 16_384,
};
const MAX_HEADERS = 100;
const CONNECTION_LIMITS = { maxConnections: 4_000, maxUnknownPerAddress: 1_000 };
/** How long a request waits for a row that another transaction has locked. */
const LOCK_TIMEOUT_MS = 5_000;
/** Searches, graphs, counts and the history of streams. */
const MAX_HEAVY_QUERIES = 4;
const HEAVY_STATEMENT_TIMEOUT_MS = 5_000;
/** The time from the end of the grace period to the end of the process. */
const EXIT_MS = 10_000;

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
  lockMs: LOCK_TIMEOUT_MS,
  requesterOf: currentRequester,
}).catch(exitWithReason);
const heavy = await openDatabase(databaseUrl, {
  name: 'sheetmill-api-heavy',
  log,
  max: MAX_HEAVY_QUERIES,
  statementMs: HEAVY_STATEMENT_TIMEOUT_MS,
  requesterOf: currentRequester,
}).catch(exitWithReason);
await migrateDatabase(databaseUrl).catch(exitWithReason);
watchProcess(database.db);
const replica = openReplica(database.db, config.DATABASE_READ_URL, log, currentRequester);
const queues = await whenReachable(() => openQueues(database.db, { supervise: false, log }));
// The limits of job types must be stored before the first job of a type.
await whenReachable(() => registerJobTypes(database.db, tasks.values()));
const store = await openStore(config);
const origins = new Origins(config);
const connections = new Connections(CONNECTION_LIMITS);
const authorize = createAuthorize(config, ({ socket }) => connections.trust(socket));
const guard = createGuard(config);
const secrets = await webhookSecrets(config);
const webhooks = deliverWebhooks({ db: database.db, guard, secrets, log });
const schedules = followSchedules(database.db, queues, log);
const hub = createEventHub({ db: database.db, heavyDb: heavy.db, databaseUrl, log });
const cache = await openStatusCache(config.REDIS_URL, log);
const longPoll = new LongPoll(hub);
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
  authorize,
  log,
  cache,
  longPoll,
});

const server = createServer(SERVER_OPTIONS, app);
server.maxHeadersCount = MAX_HEADERS;
connections.watch(server);
server.setTimeout(IDLE_TIMEOUT_MS);
const stream = attachStream(server, hub, { origins, authorize }, log);
server.listen(config.PORT, config.HOST);
await once(server, 'listening');
const url = urlOf(server);
log.info({ url }, 'api started');
process.send?.({ kind: 'ready', url });

const graceMs = config.SHUTDOWN_GRACE_SECONDS * 1000;
onShutdown(graceMs + EXIT_MS, async ({ err }) => {
  if (err) log.fatal({ err }, 'unhandled error, shutting down');
  const closed = new Promise((resolve) => server.close(resolve));
  const delivered = webhooks.close(err ? 0 : graceMs);
  const submitted = schedules.close();
  server.closeIdleConnections();
  longPoll.close();
  await Promise.all([stream.close(), hub.close()]);
  const cutOff = setTimeout(() => server.closeAllConnections(), err ? 0 : graceMs);
  await Promise.all([closed, delivered, submitted]);
  clearTimeout(cutOff);
  await lagWarnings.close();
  cache.close();
  await queues.close();
  await Promise.all([database.close(), heavy.close(), replica.close(), flushSpans()]);
});

/** The URL of a listening server; PORT 0 gives a free port. */
function urlOf(server: Server): string {
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('the server does not listen on a port');
  const host = config.HOST.includes(':') ? `[${config.HOST}]` : config.HOST;
  return `http://${host}:${address.port}`;
}
