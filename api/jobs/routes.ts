import { type Request, type Response, Router } from 'express';
import { z } from 'zod';
import type { Tasks } from '../../conversion/registry.ts';
import type { Database } from '../../db/client.ts';
import { listLogs } from '../../db/job-logs.ts';
import {
  dependenciesOf,
  findJob,
  findJobDetails,
  type JobCursor,
  type JobFilter,
  type JobRow,
  listAttempts,
  listJobs,
  listRelatives,
  positionInQueue,
  someDependenciesOf,
} from '../../db/jobs.ts';
import type { Queues } from '../../db/queues.ts';
import type { Read } from '../../db/replica.ts';
import type { BulkAction } from '../../db/schema.ts';
import { listWebhooks } from '../../db/webhooks.ts';
import { acceptJobs } from '../../jobs/accept.ts';
import { findBulk, startBulk } from '../../jobs/bulk.ts';
import { cancelJob } from '../../jobs/cancel.ts';
import { changeJob } from '../../jobs/change.ts';
import { isChanging } from '../../jobs/maintenance.ts';
import { retryJob } from '../../jobs/retry.ts';
import { payloadBytes } from '../../jobs/submit.ts';
import { AppError } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';
import type { Quota } from '../../runtime/quota.ts';
import {
  bulkDocument,
  graphDocument,
  jobDetail,
  jobDocument,
  listedJob,
  logDocument,
  webhookPage,
} from '../documents.ts';
import { type Caller, callerOf, isVisible } from '../http/admission.ts';
import { askTogether } from '../http/batch-loader.ts';
import { fingerprintOf, idempotencyOf, idempotent, keepForKeys, sendAnswer } from '../http/idempotency.ts';
import { jsonBody } from '../http/json-body.ts';
import type { Waiting } from '../http/long-poll.ts';
import { refuseFull } from '../http/overload.ts';
import { invalid, notFound, parse } from '../http/problem.ts';
import { jobList, jobsToCancel, jobsToDelete, jobsToRetry, logList, webhookList } from '../http/schemas.ts';
import { jobKey, type StatusCache, type StatusDocument } from '../http/status-cache.ts';
import { type Guard, refuseForbidden } from '../webhooks/ssrf-guard.ts';
import { NO_SHAPES, type QueueBounds, usageOf } from './queue-bounds.ts';
import { jobId, readJobChange, readJobs } from './requests.ts';

/** A batch of jobs, and everything else. */
const MAX_BATCH_BYTES = 10 * 2 ** 20;
const MAX_BODY_BYTES = 2 ** 20;
/** Jobs that one query reads with payload and result, which have up to 256 KB each. */
const MAX_DETAILS = 32;
/** Jobs of one graph that are shown. */
const MAX_RELATIVES = 200;
/** Prerequisites that a list shows of each job, which may have a thousand. */
const MAX_LISTED_DEPENDENCIES = 50;
/** Ids of a batch that its line in the log names. */
const MAX_LOGGED = 100;

/** The calls of the Jobs table of the contract, but for the stream. */
export function jobRoutes(parts: {
  db: Database;
  heavyDb: Database;
  jsonRoom: Quota;
  read: Read;
  queues: Queues;
  bounds: QueueBounds;
  tasks: Tasks;
  guard: Guard;
  log: Logger;
  cache: StatusCache;
  waiting: Waiting;
}): Router {
  const { db, heavyDb, jsonRoom, read, queues, bounds, tasks, guard, log, cache, waiting } = parts;
  const router = Router();
  const askDetail = askTogether<StatusDocument>(MAX_DETAILS, async (ids) => {
    // Before the rows, so that none is cached as it was before the last step of a change.
    const isStable = !(await isChanging(db));
    const details = await findJobDetails(db, ids);
    return new Map(
      details.map(({ job, dependsOn, attempts }) => {
        const body = jobDetail(job, dependsOn, null, attempts);
        const done = job.finishedAt !== null;
        const queued = job.status === 'ready' || job.status === 'blocked' ? job : undefined;
        return [job.id, { owner: job.owner, done, isCacheable: done && isStable, body, queued }];
      }),
    );
  });

  router.param('id', function refuseImpossibleId(_request, _response, next, id) {
    next(jobId.safeParse(id).success ? undefined : notFound(`job ${id}`));
  });

  const receive = [refuseFull(bounds), idempotent(parts), jsonBody(jsonRoom, MAX_BATCH_BYTES)];
  router.post('/jobs', receive, async (request: Request, response: Response) => {
    const fingerprint = fingerprintOf(request.body);
    const idempotency = idempotencyOf(request);
    const known = idempotency.known(fingerprint);
    if (known !== undefined) return sendAnswer(response, known);
    const { traceparent } = response.locals;
    const wanted = await readJobs(db, tasks, callerOf(request), request.body);
    const newJobs = wanted.map((job) => ({ ...job, traceparent }));
    for (const { notifyUrl } of newJobs) refuseForbidden(guard, notifyUrl);
    let told: JobRow[] = [];
    let answer = { status: 201, location: null as string | null, body: {} as unknown };
    const release = await bounds.reserve(callerOf(request).owner, usageOf(newJobs));
    await acceptJobs(db, queues, newJobs, async (tx, jobs) => {
      const dependsOn = await dependenciesOf(
        tx,
        jobs.map(({ id }) => id),
      );
      const [first] = jobs as [JobRow];
      answer = Array.isArray(request.body)
        ? { ...answer, body: { items: jobs.map((job) => jobDocument(job, dependsOn.get(job.id))) } }
        : {
            ...answer,
            location: `/jobs/${encodeURIComponent(first.id)}`,
            body: jobDocument(first, dependsOn.get(first.id), await positionInQueue(tx, first)),
          };
      await keepForKeys(tx, [{ idempotency, fingerprint, answer }]);
      told = jobs;
    }).finally(release);
    if (Array.isArray(request.body)) response.locals.jobs = told.slice(0, MAX_LOGGED).map(({ id }) => id);
    sendAnswer(response, answer);
  });

  router.get('/jobs', async (request, response) => {
    const { limit, cursor, ...query } = parse(jobList, { ...request.query });
    const page = { limit, before: cursor === undefined ? undefined : readCursor(cursor) };
    const { items, next, dependsOn } = await read(async (from) => {
      const found = await listJobs(from, filterOf(query, callerOf(request)), page);
      const ids = found.items.map(({ id }) => id);
      return { ...found, dependsOn: await someDependenciesOf(from, ids, MAX_LISTED_DEPENDENCIES + 1) };
    });
    response.json({
      items: items.map((job) => listedJob(job, dependsOn.get(job.id), MAX_LISTED_DEPENDENCIES)),
      next_cursor: next && Buffer.from(JSON.stringify(next)).toString('base64url'),
    });
  });

  /** Begins a bulk operation on the jobs that match the request's filter. */
  function bulk(action: BulkAction, schema: typeof jobsToRetry | typeof jobsToCancel | typeof jobsToDelete) {
    return async (request: Request, response: Response) => {
      const caller = callerOf(request);
      const { status, ...query } = parse(schema, request.body);
      const filter = { ...filterOf(query, caller), status };
      const operation = await startBulk(db, queues, log, { owner: caller.owner, action, filter });
      await cache.invalidate();
      response.location(`/jobs/bulk/${operation.id}`).json(bulkDocument(operation));
    };
  }
  router.post('/jobs/retry', jsonBody(jsonRoom, MAX_BODY_BYTES), bulk('retry', jobsToRetry));
  router.post('/jobs/cancel', jsonBody(jsonRoom, MAX_BODY_BYTES), bulk('cancel', jobsToCancel));
  router.post('/jobs/delete', jsonBody(jsonRoom, MAX_BODY_BYTES), bulk('delete', jobsToDelete));

  router.get('/jobs/bulk/:operation', async (request, response) => {
    const { operation: id } = request.params;
    const found = z.uuid().safeParse(id).success ? await findBulk(db, id) : undefined;
    if (found === undefined || !isVisible(found, callerOf(request))) throw notFound(`bulk operation ${id}`);
    response.json(bulkDocument(found));
  });

  router.get('/jobs/stream', (_request, response) => {
    response.set({ Connection: 'Upgrade', Upgrade: 'websocket' });
    throw new AppError('invalid_request', 'the stream is a WebSocket: connect with ws://', { status: 426 });
  });

  router.get('/jobs/:id', async (request, response) => {
    const { id } = request.params;
    const { body, queued } = await waiting.hold(request, response, jobKey(id), async () => {
      const known = await cache.through(jobKey(id), () => askDetail(id));
      if (known === undefined || !isVisible(known, callerOf(request))) throw notFound(`job ${id}`);
      return known;
    });
    response.json(queued ? { ...body, position_in_queue: await positionInQueue(db, queued) } : body);
  });

  router.patch(
    '/jobs/:id',
    jsonBody(jsonRoom, MAX_BODY_BYTES),
    async (request: Request<{ id: string }>, response: Response) => {
      const job = await requestedJob(request);
      const change = await readJobChange(db, tasks, callerOf(request), job.type, request.body);
      const grownBytes = change.payload === undefined ? 0 : payloadBytes(change.payload) - job.payloadBytes;
      const growth = { jobs: 0, payloadBytes: Math.max(0, grownBytes), shapes: NO_SHAPES };
      const release = await bounds.reserve(job.owner, growth);
      const changed = await changeJob(db, queues, job.id, change).finally(release);
      if (changed === undefined) throw notFound(`job ${job.id}`);
      response.json(await detailOf(changed));
    },
  );

  router.patch('/jobs/:id/cancel', async (request, response) => {
    const { id } = await requestedJob(request);
    const job = await cancelJob(db, queues, id);
    if (job === undefined) throw notFound(`job ${id}`);
    response.json(await detailOf(job));
  });

  router.post('/jobs/:id/retry', async (request, response) => {
    const { id } = await requestedJob(request);
    const job = await retryJob(db, queues, id);
    if (job === undefined) throw notFound(`job ${id}`);
    await cache.invalidate();
    response.json(await detailOf(job));
  });

  router.get('/jobs/:id/logs', async (request, response) => {
    const { after, limit } = parse(logList, { ...request.query });
    const { id } = await requestedJob(request);
    const found = await listLogs(db, id, { after, limit: limit + 1 });
    const items = found.slice(0, limit);
    response.json({
      items: items.map(logDocument),
      next_cursor: found.length > limit ? String(items.at(-1)?.id) : null,
    });
  });

  router.get('/jobs/:id/graph', async (request, response) => {
    const job = await requestedJob(request);
    const found = await listRelatives(heavyDb, job.id, MAX_RELATIVES + 1);
    const seen = found.slice(0, MAX_RELATIVES).filter((one) => isVisible(one, callerOf(request)));
    response.json(graphDocument(seen, found.length <= MAX_RELATIVES));
  });

  router.get('/jobs/:id/webhooks', async (request, response) => {
    const { limit, cursor } = parse(webhookList, { ...request.query });
    const { id } = await requestedJob(request);
    response.json(webhookPage(await listWebhooks(db, { jobId: id }, { limit: limit + 1, after: cursor }), limit));
  });

  async function requestedJob(request: Request<{ id: string }>): Promise<JobRow> {
    const { id } = request.params;
    const job = await findJob(db, id);
    if (job === undefined || !isVisible(job, callerOf(request))) throw notFound(`job ${id}`);
    return job;
  }

  async function detailOf(job: JobRow) {
    const dependsOn = await dependenciesOf(db, [job.id]);
    const position = await positionInQueue(db, job);
    const attempts = await listAttempts(db, job.id);
    return jobDetail(job, dependsOn.get(job.id), position, attempts);
  }

  return router;
}

function filterOf(query: Omit<z.output<typeof jobList>, 'limit' | 'cursor'>, { sees }: Caller): JobFilter {
  const { upload_id, created_after, created_before, ...same } = query;
  return { ...same, owner: sees, uploadId: upload_id, createdAfter: created_after, createdBefore: created_before };
}

function readCursor(cursor: string): JobCursor {
  try {
    const { createdAt, id } = JSON.parse(Buffer.from(cursor, 'base64url').toString());
    if (Number.isSafeInteger(createdAt) && jobId.safeParse(id).success) return { createdAt, id };
  } catch {
    // Not ours.
  }
  throw invalid('cursor: is not one that a list has given');
}
