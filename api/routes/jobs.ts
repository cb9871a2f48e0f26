import { type Request, type Response, Router } from 'express';
import type { z } from 'zod';
import type { Database } from '../../db/client.ts';
import { listLogs } from '../../db/events.ts';
import {
  dependenciesOf,
  findJob,
  type JobCursor,
  type JobFilter,
  type JobRow,
  listAttempts,
  listJobs,
  listRelatives,
  positionInQueue,
} from '../../db/jobs.ts';
import type { Queues } from '../../db/queues.ts';
import type { Read } from '../../db/replica.ts';
import { listWebhooks } from '../../db/webhooks.ts';
import { AppError } from '../../errors.ts';
import { acceptJobs } from '../../jobs/accept.ts';
import { cancelJob } from '../../jobs/cancel.ts';
import { retryJob, retryJobs } from '../../jobs/retry.ts';
import { listSchedules, scheduleKey } from '../../jobs/schedules.ts';
import type { Logger } from '../../log.ts';
import type { Tasks } from '../../tasks/registry.ts';
import { type Caller, callerOf, isVisible } from '../admission.ts';
import { graphDocument, jobDetail, jobDocument, logDocument, scheduleDocument, webhookDocument } from '../documents.ts';
import { fingerprintOf, idempotencyOf, idempotent, sendAnswer } from '../idempotency.ts';
import { jobId, readJobs, readScheduledJob } from '../job-requests.ts';
import { jsonBody } from '../middleware/json-body.ts';
import { invalid, notFound, parse } from '../problem.ts';
import { jobList, jobsToRetry, logList, scheduleName, scheduleRequest } from '../schemas.ts';
import { jobKey, type Statuses } from '../statuses/statuses.ts';
import type { Waiting } from '../waiting.ts';
import { type Guard, refuseForbidden } from '../webhooks/guard.ts';

/** A batch of jobs, and everything else. */
const LARGEST_BATCH = '10mb';
const LARGEST_BODY = '1mb';
/** Jobs of one graph that are shown. */
const MOST_RELATIVES = 200;
/** Ids of a batch that its line in the log names. */
const MOST_LOGGED = 100;

/** The calls of the Jobs table of the contract, but for the stream. */
export function jobRoutes(parts: {
  db: Database;
  read: Read;
  queues: Queues;
  tasks: Tasks;
  guard: Guard;
  log: Logger;
  statuses: Statuses;
  waiting: Waiting;
}): Router {
  const { db, read, queues, tasks, guard, statuses, waiting } = parts;
  const router = Router();

  router.param('id', function refuseImpossibleId(_request, _response, next, id) {
    next(jobId.safeParse(id).success ? undefined : notFound(`job ${id}`));
  });

  router.post('/jobs', idempotent(parts), jsonBody(LARGEST_BATCH), async (request: Request, response: Response) => {
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
      await idempotency.keep(tx, fingerprint, answer);
      told = jobs;
    });
    if (Array.isArray(request.body)) response.locals.jobs = told.slice(0, MOST_LOGGED).map(({ id }) => id);
    // Of a new job nothing can be known yet.
    await forget(told.filter(({ version }) => version > 0));
    sendAnswer(response, answer);
  });

  router.get('/jobs', async (request, response) => {
    const { limit, cursor, ...query } = parse(jobList, { ...request.query });
    const page = { limit, before: cursor === undefined ? undefined : readCursor(cursor) };
    const { items, next, dependsOn } = await read(async (from) => {
      const found = await listJobs(from, filterOf(query, callerOf(request)), page);
      const ids = found.items.map(({ id }) => id);
      return { ...found, dependsOn: await dependenciesOf(from, ids) };
    });
    await forget(items);
    response.json({
      items: items.map((job) => jobDocument(job, dependsOn.get(job.id))),
      next_cursor: next && Buffer.from(JSON.stringify(next)).toString('base64url'),
    });
  });

  router.post('/jobs/retry', jsonBody(LARGEST_BODY), async (request: Request, response: Response) => {
    const { status, ...query } = parse(jobsToRetry, request.body);
    const retried = await retryJobs(db, queues, { ...filterOf(query, callerOf(request)), status });
    await statuses.forgetAll();
    response.json({ retried });
  });

  router.get('/jobs/stream', (_request, response) => {
    response.set({ Connection: 'Upgrade', Upgrade: 'websocket' });
    throw new AppError('invalid_request', 'the stream is a WebSocket: connect with ws://', { status: 426 });
  });

  router.get('/jobs/:id', async (request, response) => {
    const { id } = request.params;
    const { body } = await waiting.hold(request, response, jobKey(id), async () => {
      const known = await statuses.job(id);
      if (known === undefined || !isVisible(known, callerOf(request))) throw notFound(`job ${id}`);
      return known;
    });
    // A position changes with what others do: it is counted each time.
    const hasPosition = body.status === 'ready' || body.status === 'blocked';
    response.json(hasPosition ? await detailOf(await requestedJob(request)) : body);
  });

  router.patch('/jobs/:id/cancel', async (request, response) => {
    const { id } = await requestedJob(request);
    const job = await cancelJob(db, queues, id);
    if (job === undefined) throw notFound(`job ${id}`);
    // Its dependants and children have changed with it.
    await statuses.forgetAll();
    response.json(await detailOf(job));
  });

  router.post('/jobs/:id/retry', async (request, response) => {
    const { id } = await requestedJob(request);
    const job = await retryJob(db, queues, id);
    if (job === undefined) throw notFound(`job ${id}`);
    await statuses.forgetAll();
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
    const found = await listRelatives(db, job.id, MOST_RELATIVES + 1);
    const seen = found.slice(0, MOST_RELATIVES).filter((one) => isVisible(one, callerOf(request)));
    response.json(graphDocument(seen, found.length <= MOST_RELATIVES));
  });

  router.get('/jobs/:id/webhooks', async (request, response) => {
    const { id } = await requestedJob(request);
    response.json({ items: (await listWebhooks(db, { jobId: id })).map(webhookDocument), next_cursor: null });
  });

  router.put('/schedules/:name', jsonBody(LARGEST_BODY), async (request: Request, response: Response) => {
    const name = parse(scheduleName, request.params.name, 'name');
    const { cron, timezone, job } = parse(scheduleRequest, request.body);
    const caller = callerOf(request);
    const { id: _, runAt: __, dependsOn: ___, ...read } = await readScheduledJob(db, tasks, caller, job);
    refuseForbidden(guard, read.notifyUrl);
    const key = scheduleKey(caller.owner, name);
    const data = { request: job, job: { ...read, owner: caller.owner } };
    await queues.putSchedule(key, { cron, timezone, data }).catch((error: Error) => {
      if (error.name === 'error' || 'query' in error) throw error;
      throw invalid(`cron or timezone: ${error.message}`);
    });
    const stored = (await listSchedules(queues, undefined)).find((one) => one.key === key);
    if (stored === undefined) throw notFound(`schedule ${name}`); // another has just deleted it
    response.json(scheduleDocument(stored));
  });

  router.get('/schedules', async (request, response) => {
    const items = await listSchedules(queues, callerOf(request).sees);
    response.json({ items: items.map(scheduleDocument), next_cursor: null });
  });

  router.delete('/schedules/:name', async (request, response) => {
    const { name } = request.params;
    const { owner, sees } = callerOf(request);
    const named = (await listSchedules(queues, sees)).filter((one) => one.name === name);
    // Who sees everybody's means its own first.
    const schedule = named.find(({ key }) => key === scheduleKey(owner, name)) ?? named[0];
    if (schedule === undefined) throw notFound(`schedule ${name}`);
    await queues.removeSchedule(schedule.key);
    response.status(204).end();
  });

  /** For answers that tell of jobs by their rows: what is read of them later is no older. */
  async function forget(rows: JobRow[]): Promise<void> {
    if (rows.length > 0) await statuses.forget(rows.map(({ id }) => jobKey(id)));
  }

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
    await forget([job]);
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
