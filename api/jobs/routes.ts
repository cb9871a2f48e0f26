import { type Request, type Response, Router } from 'express';
import { z } from 'zod';
import type { Database } from '../../db/client.ts';
import { listLogs } from '../../db/job-logs.ts';
import {
  dependenciesOf,
  findJob,
  findJobDetails,
  type JobRow,
  listAttempts,
  listJobs,
  listRelatives,
  positionInQueue,
  someDependenciesOf,
} from '../../db/jobs.ts';
import type { Read } from '../../db/replica.ts';
import { listWebhooks } from '../../db/webhooks.ts';
import { cancelJob } from '../../jobs/cancel.ts';
import { changeJob } from '../../jobs/change.ts';
import { isChanging } from '../../jobs/maintenance.ts';
import { retryJob } from '../../jobs/retry.ts';
import { payloadBytes } from '../../jobs/submit.ts';
import { AppError } from '../../runtime/errors.ts';
import type { Quota } from '../../runtime/quota.ts';
import { createBatchLoader } from '../http/batch-loader.ts';
import { isVisible } from '../http/caller.ts';
import { readCursor, writeCursor } from '../http/cursor.ts';
import { idempotent } from '../http/idempotency.ts';
import { jsonBody } from '../http/json-body.ts';
import type { LongPoll } from '../http/long-poll.ts';
import { refuseFull } from '../http/overload.ts';
import { notFound } from '../http/problem.ts';
import { callerOf } from '../http/request-state.ts';
import { jobKey, type StatusDocument } from '../http/status-cache.ts';
import { parse } from '../http/validate.ts';
import { withParts } from '../http/with-parts.ts';
import { webhookPage } from '../webhooks/documents.ts';
import { webhookList } from '../webhooks/requests.ts';
import * as bulk from './bulk.ts';
import { graphDocument, jobDetail, listedJob, logDocument } from './documents.ts';
import { jobList, logList } from './filters.ts';
import { NO_SHAPES } from './queue-bounds.ts';
import { jobId, readJobChange } from './requests.ts';
import { type SubmitParts, submit } from './submit.ts';

const MAX_BATCH_BYTES = 10 * 2 ** 20;
const MAX_BODY_BYTES = 2 ** 20;
/** Jobs that one query reads with payload and result, which have up to 256 KB each. */
const MAX_DETAILS = 32;
/** Jobs of one graph that are shown. */
const MAX_RELATIVES = 200;
/** Dependencies that a list shows of each job, which may have a thousand. */
const MAX_LISTED_DEPENDENCIES = 50;

interface Parts extends SubmitParts, bulk.BulkParts {
  /** The same database, over a few connections for queries that may take long. */
  heavyDb: Database;
  jsonRoom: Quota;
  read: Read;
  longPoll: LongPoll;
}

type OneJob = Request<{ id: string }>;

/** All calls below `/jobs`. The stream itself is a WebSocket: see api/events/stream.ts. */
export function jobRoutes(parts: Parts): Router {
  const router = Router();
  const to = withParts({ ...parts, readDetail: createBatchLoader(MAX_DETAILS, (ids) => readDetails(parts.db, ids)) });
  const body = jsonBody(parts.jsonRoom, MAX_BODY_BYTES);
  const batch = jsonBody(parts.jsonRoom, MAX_BATCH_BYTES);
  router.param('id', function refuseImpossibleId(_request, _response, next, id) {
    next(jobId.safeParse(id).success ? undefined : notFound(`job ${id}`));
  });
  router.post('/jobs', refuseFull(parts.bounds), idempotent(parts), batch, to(submit));
  router.get('/jobs', to(list));
  router.post('/jobs/retry', body, to(bulk.change('retry')));
  router.post('/jobs/cancel', body, to(bulk.change('cancel')));
  router.post('/jobs/delete', body, to(bulk.change('delete')));
  router.get('/jobs/bulk/:operation', to(bulk.getOperation));
  router.get('/jobs/stream', requireUpgrade);
  router.get('/jobs/:id', to(get));
  router.patch('/jobs/:id', body, to(change));
  router.patch('/jobs/:id/cancel', to(cancel));
  router.post('/jobs/:id/retry', to(retry));
  router.get('/jobs/:id/logs', to(logs));
  router.get('/jobs/:id/graph', to(graph));
  router.get('/jobs/:id/webhooks', to(webhooks));
  return router;
}

const jobCursor = z.object({ createdAt: z.int(), id: jobId });

async function list({ read }: Parts, request: Request, response: Response): Promise<void> {
  const { limit, cursor, ...query } = parse(jobList, { ...request.query });
  const page = { limit, before: readCursor(jobCursor, cursor) };
  const { items, next, dependsOn } = await read(async (from) => {
    const found = await listJobs(from, bulk.filterOf(query, callerOf(request)), page);
    const ids = found.items.map(({ id }) => id);
    return { ...found, dependsOn: await someDependenciesOf(from, ids, MAX_LISTED_DEPENDENCIES + 1) };
  });
  response.json({
    items: items.map((job) => listedJob(job, dependsOn.get(job.id), MAX_LISTED_DEPENDENCIES)),
    next_cursor: writeCursor(next),
  });
}

function requireUpgrade(_request: Request, response: Response): void {
  response.set({ Connection: 'Upgrade', Upgrade: 'websocket' });
  throw new AppError('invalid_request', 'the stream is a WebSocket: connect with ws://', { status: 426 });
}

interface DetailParts extends Parts {
  readDetail(id: string): Promise<StatusDocument | undefined>;
}

async function get({ db, cache, longPoll, readDetail }: DetailParts, request: OneJob, response: Response) {
  const { id } = request.params;
  const { body, queued } = await longPoll.hold(request, response, jobKey(id), async () => {
    const known = await cache.through(jobKey(id), () => readDetail(id));
    if (known === undefined || !isVisible(known, callerOf(request))) throw notFound(`job ${id}`);
    return known;
  });
  response.json(queued ? { ...body, position_in_queue: await positionInQueue(db, queued) } : body);
}

async function readDetails(db: Database, ids: string[]): Promise<Map<string, StatusDocument>> {
  // Read before the rows: otherwise the state before the last step of a change could be cached.
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
}

async function change({ db, queues, tasks, bounds }: Parts, request: OneJob, response: Response): Promise<void> {
  const job = await requestedJob(db, request);
  const wanted = await readJobChange(db, tasks, callerOf(request), job.type, request.body);
  const grownBytes = wanted.payload === undefined ? 0 : payloadBytes(wanted.payload) - job.payloadBytes;
  const growth = { jobs: 0, payloadBytes: Math.max(0, grownBytes), shapes: NO_SHAPES };
  const release = await bounds.reserve(job.owner, growth);
  const changed = await changeJob(db, queues, job.id, wanted).finally(release);
  await sendDetail(db, job.id, changed, response);
}

async function cancel({ db, queues }: Parts, request: OneJob, response: Response): Promise<void> {
  const { id } = await requestedJob(db, request);
  await sendDetail(db, id, await cancelJob(db, queues, id), response);
}

async function retry({ db, queues, cache }: Parts, request: OneJob, response: Response): Promise<void> {
  const { id } = await requestedJob(db, request);
  const job = await retryJob(db, queues, id);
  if (job !== undefined) await cache.invalidate();
  await sendDetail(db, id, job, response);
}

async function logs({ db }: Parts, request: OneJob, response: Response): Promise<void> {
  const { after, limit } = parse(logList, { ...request.query });
  const { id } = await requestedJob(db, request);
  const found = await listLogs(db, id, { after, limit: limit + 1 });
  const items = found.slice(0, limit);
  response.json({
    items: items.map(logDocument),
    next_cursor: found.length > limit ? String(items.at(-1)?.id) : null,
  });
}

async function graph({ db, heavyDb }: Parts, request: OneJob, response: Response): Promise<void> {
  const job = await requestedJob(db, request);
  const found = await listRelatives(heavyDb, job.id, MAX_RELATIVES + 1);
  const seen = found.slice(0, MAX_RELATIVES).filter((one) => isVisible(one, callerOf(request)));
  response.json(graphDocument(seen, found.length <= MAX_RELATIVES));
}

async function webhooks({ db }: Parts, request: OneJob, response: Response): Promise<void> {
  const { limit, cursor } = parse(webhookList, { ...request.query });
  const { id } = await requestedJob(db, request);
  response.json(webhookPage(await listWebhooks(db, { jobId: id }, { limit: limit + 1, after: cursor }), limit));
}

async function requestedJob(db: Database, request: OneJob): Promise<JobRow> {
  const { id } = request.params;
  const job = await findJob(db, id);
  if (job === undefined || !isVisible(job, callerOf(request))) throw notFound(`job ${id}`);
  return job;
}

/** Answers with a job after its change; 404 when it was deleted meanwhile. */
async function sendDetail(db: Database, id: string, job: JobRow | undefined, response: Response): Promise<void> {
  if (job === undefined) throw notFound(`job ${id}`);
  const dependsOn = await dependenciesOf(db, [id]);
  const position = await positionInQueue(db, job);
  const attempts = await listAttempts(db, id);
  response.json(jobDetail(job, dependsOn.get(id), position, attempts));
}
