import express, { type Express } from 'express';
import helmet from 'helmet';
import type { Tasks } from '../conversion/registry.ts';
import type { Database } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import type { Read } from '../db/replica.ts';
import type { Config } from '../runtime/config.ts';
import type { Logger } from '../runtime/log.ts';
import { Quota } from '../runtime/quota.ts';
import type { Store } from '../store/store.ts';
import { type Admission, admission, boundUnread } from './http/admission.ts';
import { crossOrigin } from './http/cross-origin.ts';
import type { Waiting } from './http/long-poll.ts';
import type { Origins } from './http/origins.ts';
import { noSuchRoute, problems } from './http/problem.ts';
import { observeRequests } from './http/request-log.ts';
import type { StatusCache } from './http/status-cache.ts';
import { createQueueBounds } from './jobs/queue-bounds.ts';
import { jobRoutes } from './jobs/routes.ts';
import { scheduleRoutes } from './jobs/schedule-routes.ts';
import { jobTypeRoutes } from './jobs/type-routes.ts';
import { dashboardRoutes } from './operations/dashboard.ts';
import { documentationRoutes } from './operations/documentation.ts';
import { operationRoutes } from './operations/routes.ts';
import { uploadRoutes } from './uploads/routes.ts';
import type { Guard } from './webhooks/ssrf-guard.ts';

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
  const jsonRoom = new Quota({ name: 'bytes of JSON', max: MAX_JSON_BYTES });
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
