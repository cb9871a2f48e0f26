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
import { type Authorize, requireAuthorization } from './http/authorize.ts';
import { crossOrigin } from './http/cross-origin.ts';
import type { LongPoll } from './http/long-poll.ts';
import type { Origins } from './http/origins.ts';
import { noSuchRoute, problems } from './http/problem.ts';
import { observeRequests } from './http/request-log.ts';
import type { StatusCache } from './http/status-cache.ts';
import { limitUnreadBody } from './http/unread-body.ts';
import { createQueueBounds } from './jobs/queue-bounds.ts';
import { jobRoutes } from './jobs/routes.ts';
import { scheduleRoutes } from './jobs/schedule-routes.ts';
import { jobTypeRoutes } from './jobs/type-routes.ts';
import { dashboardRoutes } from './operations/dashboard.ts';
import { documentationRoutes } from './operations/documentation.ts';
import { operationRoutes } from './operations/routes.ts';
import { uploadRoutes } from './uploads/routes.ts';
import type { Guard } from './webhooks/ssrf-guard.ts';

/** Pages may load only files of this service, and images that they made from bytes (`data:`, `blob:`). */
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
  // HSTS belongs to the proxy that terminates TLS.
  strictTransportSecurity: false,
});

/** The maximum size of all JSON bodies in memory; a body counts until its request ends. */
const MAX_JSON_BYTES = 64 * 2 ** 20;

/** The services that an API process consists of. */
interface AppParts {
  db: Database;
  /** The same database, through a few connections for slow queries. */
  heavyDb: Database;
  read: Read;
  queues: Queues;
  store: Store;
  tasks: Tasks;
  guard: Guard;
  config: Config;
  origins: Origins;
  authorize: Authorize;
  log: Logger;
  cache: StatusCache;
  longPoll: LongPoll;
}

/** All middleware and routes, and the only place where errors become answers. */
export function createApp(parts: AppParts): Express {
  const app = express();
  const bounds = createQueueBounds(parts.db, parts.config);
  const jsonRoom = new Quota({ name: 'bytes of JSON', max: MAX_JSON_BYTES });
  app.disable('etag');
  app.use(observeRequests(parts.log));
  app.use(limitUnreadBody);
  app.use(secureHeaders);
  app.use(crossOrigin(parts.origins));
  app.use(requireAuthorization(parts.authorize));
  // Hot routes come first: Express matches in this order.
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
