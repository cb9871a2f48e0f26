import express, { type Express } from 'express';
import helmet from 'helmet';
import type { Config } from '../config.ts';
import type { Database } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import type { Read } from '../db/replica.ts';
import type { Logger } from '../log.ts';
import { Room } from '../room.ts';
import type { Store } from '../store/store.ts';
import type { Tasks } from '../tasks/registry.ts';
import { type Admission, admission, boundUnread } from './admission.ts';
import { crossOrigin } from './middleware/cross-origin.ts';
import { observeRequests } from './middleware/observe-requests.ts';
import type { Origins } from './origins.ts';
import { noSuchRoute, problems } from './problem.ts';
import { createQueueBounds } from './queue-bounds.ts';
import { dashboardRoutes } from './routes/dashboard.ts';
import { documentationRoutes } from './routes/documentation.ts';
import { jobTypeRoutes } from './routes/job-types.ts';
import { jobRoutes } from './routes/jobs.ts';
import { operationRoutes } from './routes/operations.ts';
import { scheduleRoutes } from './routes/schedules.ts';
import { uploadRoutes } from './routes/uploads.ts';
import type { StatusCache } from './status-cache.ts';
import type { Waiting } from './waiting.ts';
import type { Guard } from './webhooks/guard.ts';

/** For JSON, and for pages that load what lies beside them and nothing else; pictures may be made of bytes that a page has fetched. */
const secureHeaders = helmet({
  contentSecurityPolicy: {
    useDefaults: false,
    directives: {
      defaultSrc: ["'none'"],
      scriptSrc: ["'self'"],
      styleSrc: ["'self'"],
      fontSrc: ["'self'"],
      imgSrc: ["'self'", 'data:', 'blob:'],
      connectSrc: ["'self'"],
      baseUri: ["'none'"],
      formAction: ["'none'"],
      frameAncestors: ["'none'"],
    },
  },
  xFrameOptions: { action: 'deny' },
  // For whoever ends TLS to say.
  strictTransportSecurity: false,
});

/** Bytes of JSON bodies in memory at a time, until their requests end. */
const MAX_JSON_BYTES = 64 * 2 ** 20;

/** The HTTP edge: every route, and the one place where errors become answers. */
export function createApp(parts: {
  db: Database;
  /** The same database, over a few connections for queries that may take long. */
  heavyDb: Database;
  read: Read;
  queues: Queues;
  store: Store;
  tasks: Tasks;
  guard: Guard;
  config: Config;
  origins: Origins;
  admit: Admission;
  log: Logger;
  cache: StatusCache;
  waiting: Waiting;
}): Express {
  const app = express();
  app.disable('etag');
  app.use(observeRequests(parts.log));
  app.use(boundUnread);
  app.use(secureHeaders);
  app.use(crossOrigin(parts.origins));
  app.use(admission(parts.admit));
  // What is asked for most comes first: each route before it is tried in vain.
  const bounds = createQueueBounds(parts.db, parts.config);
  const jsonRoom = new Room({ name: 'bytes of JSON', max: MAX_JSON_BYTES });
  app.use(uploadRoutes({ ...parts, bounds }));
  app.use(jobRoutes({ ...parts, bounds, jsonRoom }));
  app.use(jobTypeRoutes(parts));
  app.use(scheduleRoutes({ ...parts, jsonRoom }));
  app.use(operationRoutes(parts));
  app.use(documentationRoutes());
  app.use(dashboardRoutes());
  app.use(noSuchRoute);
  app.use(problems(parts.log));
  return app;
}
