import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { configOrExit, exitWithReason, requireDatabaseUrl } from '../config.ts';
import { openDatabase } from '../db/client.ts';
import { migrateDatabase } from '../db/migrate.ts';
import { openQueues } from '../db/queues.ts';
import { followSchedules } from '../jobs/schedules.ts';
import { createLogger } from '../log.ts';
import { onShutdown } from '../shutdown.ts';
import { openDiskStore } from '../store/disk.ts';
import { loadTasks } from '../tasks/registry.ts';
import { createApp } from './app.ts';
import { createEventHub } from './event-hub.ts';
import { attachStream } from './stream.ts';
import { deliverWebhooks } from './webhooks/deliver.ts';
import { createGuard } from './webhooks/guard.ts';
import { webhookSecrets } from './webhooks/secrets.ts';

/** A connection on which nothing moves for this long is closed; a slow upload that moves goes on. */
const IDLE_MS = 60_000;
const LONGEST_REQUEST_MS = 3_600_000;

/** One API process. */
const config = configOrExit(process.env);
const databaseUrl = requireDatabaseUrl(config);
const log = createLogger(config.LOG_LEVEL, { process: 'api' });

const tasks = await loadTasks(config.TASKS).catch(exitWithReason);

const database = await openDatabase(databaseUrl, { name: 'sheetmill-api', log });
await migrateDatabase(databaseUrl);
const queues = await openQueues(database.db, { supervise: false, schedule: true, log });
await followSchedules(database.db, queues);
const store = await openDiskStore(config.STORE_DIR);
const guard = createGuard(config);
const app = createApp({ db: database.db, queues, store, tasks, guard, config, log });
const secrets = await webhookSecrets(config);
const webhooks = deliverWebhooks({ db: database.db, queues, guard, secrets, log });
const hub = createEventHub({ db: database.db, databaseUrl, log });

const server = createServer({ requestTimeout: LONGEST_REQUEST_MS }, app);
server.setTimeout(IDLE_MS);
const stream = attachStream(server, hub, log);
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
  server.closeIdleConnections();
  await Promise.all([stream.close(), hub.close()]);
  const cutOff = setTimeout(() => server.closeAllConnections(), err ? 0 : graceMs);
  await Promise.all([closed, delivered]);
  clearTimeout(cutOff);
  await queues.close();
  await database.close();
});
// Started by `npm start`, it ends with its parent: the embedded Postgres does, too.
process.on('disconnect', () => process.exit(1));
