import express, { type Request, Router } from 'express';
import { z } from 'zod';
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
  positionInQueue,
} from '../../db/jobs.ts';
import type { Queues } from '../../db/queues.ts';
import { AppError } from '../../errors.ts';
import { acceptJobs } from '../../jobs/accept.ts';
import { cancelJob } from '../../jobs/cancel.ts';
import { retryJob, retryJobs } from '../../jobs/retry.ts';
import { listSchedules } from '../../jobs/schedules.ts';
import type { Logger } from '../../log.ts';
import type { Tasks } from '../../tasks/registry.ts';
import { jobDetail, jobDocument, logDocument, scheduleDocument } from '../documents.ts';
import { fingerprintOf, idempotencyOf, idempotent, sendAnswer } from '../idempotency.ts';
import { jobId, readJobs, readScheduledJob } from '../job-requests.ts';
import { invalid, notFound, parse } from '../problem.ts';
import { jobList, jobsToRetry, logList, scheduleRequest } from '../schemas.ts';
import { jobKey, type Statuses } from '../statuses/statuses.ts';
import type { Waiting } from '../waiting.ts';

const LARGEST_BODY = '10mb';
const scheduleName = z
  .string()
  .regex(/^[\w.-]{1,100}$/, 'must be 1 to 100 letters, digits, dots, dashes or underscores');

/** The calls of the Jobs table of the contract, but for the stream. */
export function jobRoutes(parts: {
  db: Database;
  queues: Queues;
  tasks: Tasks;
  log: Logger;
  statuses: Statuses;
  waiting: Waiting;
}): Router {
  const { db, queues, tasks, statuses, waiting } = parts;
  const router = Router();
  const json = [
    function expectJson(request: Request, _response: unknown, next: () => void) {
      if (!request.is('application/json')) {
        throw new AppError('unsupported_media_type', 'send JSON as application/json', { status: 415 });
      }
      next();
    },
    express.json({ limit: LARGEST_BODY }),
  ];

  router.param('id', function refuseImpossibleId(_request, _response, next, id) {
    next(jobId.safeParse(id).success ? undefined : notFound(`job ${id}`));
  });

  router.post('/jobs', idempotent(parts), json, async (request: Request, response: express.Response) => {
    const fingerprint = fingerprintOf(request.body);
    const idempotency = idempotencyOf(request);
    const known = idempotency.known(fingerprint);
    if (known !== undefined) return sendAnswer(response, known);
    const newJobs = await readJobs(db, tasks, request.body);
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
    // Of a new job nothing can be known yet.
    await forget(told.filter(({ version }) => version > 0));
    sendAnswer(response, answer);
  });

  router.get('/jobs', async (request, response) => {
    const { limit, cursor, ...query } = parse(jobList, { ...request.query });
    const { items, next } = await listJobs(db, filterOf(query), {
      limit,
      before: cursor === undefined ? undefined : readCursor(cursor),
    });
    const dependsOn = await dependenciesOf(
      db,
      items.map(({ id }) => id),
    );
    await forget(items);
    response.json({
      items: items.map((job) => jobDocument(job, dependsOn.get(job.id))),
      next_cursor: next && Buffer.from(JSON.stringify(next)).toString('base64url'),
    });
  });

  router.post('/jobs/retry', json, async (request: Request, response: express.Response) => {
    const { status, ...query } = parse(jobsToRetry, request.body);
    response.json({ retried: await retryJobs(db, queues, { ...filterOf(query), status }) });
  });

  router.get('/jobs/stream', (_request, response) => {
    response.set({ Connection: 'Upgrade', Upgrade: 'websocket' });
    throw new AppError('invalid_request', 'the stream is a WebSocket: connect with ws://', { status: 426 });
  });

  router.get('/jobs/:id', async (request, response) => {
    const { id } = request.params;
    const { body } = await waiting.hold(request, response, jobKey(id), async () => {
      const known = await statuses.job(id);
      if (known === undefined) throw notFound(`job ${id}`);
      return known;
    });
    // A position changes with what others do: it is counted each time.
    const hasPosition = body.status === 'ready' || body.status === 'blocked';
    response.json(hasPosition ? await detailOf(await requestedJob(id)) : body);
  });

  router.patch('/jobs/:id/cancel', async (request, response) => {
    const job = await cancelJob(db, queues, request.params.id);
    if (job === undefined) throw notFound(`job ${request.params.id}`);
    response.json(await detailOf(job));
  });

  router.post('/jobs/:id/retry', async (request, response) => {
    const job = await retryJob(db, queues, request.params.id);
    if (job === undefined) throw notFound(`job ${request.params.id}`);
    response.json(await detailOf(job));
  });

  router.get('/jobs/:id/logs', async (request, response) => {
    const { after, limit } = parse(logList, { ...request.query });
    const { id } = await requestedJob(request.params.id);
    const found = await listLogs(db, id, { after, limit: limit + 1 });
    const items = found.slice(0, limit);
    response.json({
      items: items.map(logDocument),
      next_cursor: found.length > limit ? String(items.at(-1)?.id) : null,
    });
  });

  router.get('/job-types', (_request, response) => {
    const items = [...tasks.values()].map(({ type, payload, resources, trusted = false, internal = false }) => ({
      type,
      payload: z.toJSONSchema(payload, { io: 'input' }),
      resource_requirements: { cpu_units: resources.cpuUnits, memory_mb: resources.memoryMb },
      trusted,
      internal,
    }));
    response.json({ items, next_cursor: null });
  });

  router.put('/schedules/:name', json, async (request: Request, response: express.Response) => {
    const name = parse(scheduleName, request.params.name, 'name');
    const { cron, timezone, job } = parse(scheduleRequest, request.body);
    const { id: _, runAt: __, dependsOn: ___, ...read } = readScheduledJob(tasks, job);
    await queues.putSchedule(name, { cron, timezone, data: { request: job, job: read } }).catch((error: Error) => {
      if (error.name === 'error' || 'query' in error) throw error;
      throw invalid(`cron or timezone: ${error.message}`);
    });
    response.json(scheduleDocument(await requestedSchedule(name)));
  });

  router.get('/schedules', async (_request, response) => {
    response.json({ items: (await listSchedules(queues)).map(scheduleDocument), next_cursor: null });
  });

  router.delete('/schedules/:name', async (request, response) => {
    const { name } = await requestedSchedule(request.params.name);
    await queues.removeSchedule(name);
    response.status(204).end();
  });

  /** For answers that tell of jobs by their rows: what is read of them later is no older. */
  async function forget(rows: JobRow[]): Promise<void> {
    if (rows.length > 0) await statuses.forget(rows.map(({ id }) => jobKey(id)));
  }

  async function requestedJob(id: string): Promise<JobRow> {
    const job = await findJob(db, id);
    if (job === undefined) throw notFound(`job ${id}`);
    return job;
  }

  async function requestedSchedule(name: string) {
    const schedule = (await listSchedules(queues)).find((one) => one.name === name);
    if (schedule === undefined) throw notFound(`schedule ${name}`);
    return schedule;
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

function filterOf(query: Omit<z.output<typeof jobList>, 'limit' | 'cursor'>): JobFilter {
  const { upload_id, created_after, created_before, ...same } = query;
  return { ...same, uploadId: upload_id, createdAfter: created_after, createdBefore: created_before };
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
