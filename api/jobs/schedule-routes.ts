import { type Request, type Response, Router } from 'express';
import { z } from 'zod';
import type { Tasks } from '../../conversion/registry.ts';
import type { Database } from '../../db/client.ts';
import { positionInQueue } from '../../db/jobs.ts';
import type { Queues } from '../../db/queues.ts';
import type { Read } from '../../db/replica.ts';
import { deleteSchedule, findSchedule, listSchedules, type Schedule } from '../../db/schedules.ts';
import { putSchedule, runScheduleNow } from '../../jobs/schedules.ts';
import type { Config } from '../../runtime/config.ts';
import type { Quota } from '../../runtime/quota.ts';
import { readCursor, writeCursor } from '../http/cursor.ts';
import { jsonBody } from '../http/json-body.ts';
import { notFound } from '../http/problem.ts';
import { callerOf } from '../http/request-state.ts';
import { parse } from '../http/validate.ts';
import { withParts } from '../http/with-parts.ts';
import { type Guard, refuseForbidden } from '../webhooks/ssrf-guard.ts';
import { jobDocument, scheduleDocument } from './documents.ts';
import { readScheduledJob } from './requests.ts';
import { scheduleList, scheduleName, scheduleRequest } from './schedule-requests.ts';

const MAX_BODY_BYTES = 2 ** 20;

interface Parts {
  db: Database;
  jsonRoom: Quota;
  read: Read;
  queues: Queues;
  tasks: Tasks;
  guard: Guard;
  config: Pick<Config, 'MAX_SCHEDULES_PER_OWNER'>;
}

type Named = Request<{ name: string }>;

/** All calls below `/schedules`. */
export function scheduleRoutes(parts: Parts): Router {
  const router = Router();
  const to = withParts(parts);
  router.get('/schedules', to(list));
  router.put('/schedules/:name', jsonBody(parts.jsonRoom, MAX_BODY_BYTES), to(put));
  router.get('/schedules/:name', to(get));
  router.delete('/schedules/:name', to(remove));
  router.post('/schedules/:name/run', to(run));
  return router;
}

const scheduleCursor = z.strictObject({ name: scheduleName, id: z.uuid() });

async function list({ read }: Parts, request: Request, response: Response): Promise<void> {
  const { limit, cursor } = parse(scheduleList, { ...request.query });
  const page = { limit, after: readCursor(scheduleCursor, cursor) };
  const { items, next } = await read((from) => listSchedules(from, callerOf(request).sees, page));
  response.json({ items: items.map(scheduleDocument), next_cursor: writeCursor(next) });
}

async function put({ db, tasks, guard, config }: Parts, request: Named, response: Response): Promise<void> {
  const name = parse(scheduleName, request.params.name, 'name');
  const { job: written, ...schedule } = parse(scheduleRequest, request.body);
  const caller = callerOf(request);
  const { id: _, runAt: __, dependsOn: ___, ...job } = await readScheduledJob(db, tasks, caller, written);
  refuseForbidden(guard, job.notifyUrl);
  const wanted = { ...schedule, name, owner: caller.owner, job: { request: written, job } };
  response.json(scheduleDocument(await putSchedule(db, wanted, config.MAX_SCHEDULES_PER_OWNER)));
}

async function get({ db }: Parts, request: Named, response: Response): Promise<void> {
  response.json(scheduleDocument(await requested(db, request)));
}

async function remove({ db }: Parts, request: Named, response: Response): Promise<void> {
  const { id, name } = await requested(db, request);
  if (!(await deleteSchedule(db, id))) throw notFound(`schedule ${name}`);
  response.status(204).end();
}

async function run({ db, queues }: Parts, request: Named, response: Response): Promise<void> {
  const { id, name } = await requested(db, request);
  const job = await runScheduleNow(db, queues, id);
  if (job === undefined) throw notFound(`schedule ${name}`);
  response.status(201).location(`/jobs/${encodeURIComponent(job.id)}`);
  response.json(jobDocument(job, [], await positionInQueue(db, job)));
}

async function requested(db: Database, request: Named): Promise<Schedule> {
  const { name } = request.params;
  const schedule = scheduleName.safeParse(name).success ? await findSchedule(db, name, callerOf(request)) : undefined;
  if (schedule === undefined) throw notFound(`schedule ${name}`);
  return schedule;
}
