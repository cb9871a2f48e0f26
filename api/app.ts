import { randomUUID } from 'node:crypto';
import express, { type Express } from 'express';
import type { Config } from '../config.ts';
import type { Database } from '../db/client.ts';
import type { Queues } from '../db/queues.ts';
import type { Logger } from '../log.ts';
import type { Store } from '../store/store.ts';
import type { Tasks } from '../tasks/registry.ts';
import { noSuchRoute, problems } from './problem.ts';
import { jobRoutes } from './routes/jobs.ts';
import { operationRoutes } from './routes/operations.ts';
import { uploadRoutes } from './routes/uploads.ts';
import type { Statuses } from './statuses/statuses.ts';
import type { Waiting } from './waiting.ts';

/** The HTTP edge: every route, and the one place where errors become answers. */
export function createApp(parts: {
  db: Database;
  queues: Queues;
  store: Store;
  tasks: Tasks;
  config: Config;
  log: Logger;
  statuses: Statuses;
  waiting: Waiting;
}): Express {
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');
  app.use(function identifyRequest(request, response, next) {
    response.locals.requestId = randomUUID();
    response.set({ 'X-Request-Id': response.locals.requestId, 'X-Content-Type-Options': 'nosniff' });
    response.on('close', () =>
      parts.log.info(
        {
          request: response.locals.requestId,
          method: request.method,
          path: request.path,
          status: response.statusCode,
          aborted: !response.writableFinished,
        },
        'request',
      ),
    );
    next();
  });
  app.use(operationRoutes(parts));
  app.use(uploadRoutes(parts));
  app.use(jobRoutes(parts));
  app.use(noSuchRoute);
  app.use(problems(parts.log));
  return app;
}
