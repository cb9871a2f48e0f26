import { type Request, type Response, Router } from 'express';
import type { Tasks } from '../../conversion/registry.ts';
import type { Database } from '../../db/client.ts';
import { pausedJobTypes, pauseJobType, resumeJobType } from '../../jobs/pause.ts';
import type { TaskDefinition } from '../../jobs/task.ts';
import type { Logger } from '../../runtime/log.ts';
import { notFound } from '../http/problem.ts';
import { callerOf } from '../http/request-state.ts';
import { withParts } from '../http/with-parts.ts';
import { jobTypeDocument } from './documents.ts';

interface Parts {
  db: Database;
  tasks: Tasks;
  log: Logger;
}

type OneType = Request<{ type: string }>;

/** All calls below `/job-types`. */
export function jobTypeRoutes(parts: Parts): Router {
  const router = Router();
  const to = withParts(parts);
  router.get('/job-types', to(list));
  router.post('/job-types/:type/pause', to(pause));
  router.post('/job-types/:type/resume', to(resume));
  return router;
}

async function list({ db, tasks }: Parts, _request: Request, response: Response): Promise<void> {
  const paused = await pausedJobTypes(db);
  const items = [...tasks.values()].map((task) => jobTypeDocument(task, paused.get(task.type)));
  response.json({ items, next_cursor: null });
}

async function pause({ db, tasks, log }: Parts, request: OneType, response: Response): Promise<void> {
  const task = requestedTask(tasks, request);
  await pauseJobType(db, task.type);
  log.info({ type: task.type, owner: callerOf(request).owner }, 'job type paused');
  await sendType(db, task, response);
}

async function resume({ db, tasks, log }: Parts, request: OneType, response: Response): Promise<void> {
  const task = requestedTask(tasks, request);
  await resumeJobType(db, task.type);
  log.info({ type: task.type, owner: callerOf(request).owner }, 'job type resumed');
  await sendType(db, task, response);
}

function requestedTask(tasks: Tasks, request: OneType): TaskDefinition {
  const { type } = request.params;
  const task = tasks.get(type);
  if (task === undefined) throw notFound(`job type ${type}`);
  return task;
}

async function sendType(db: Database, task: TaskDefinition, response: Response): Promise<void> {
  response.json(jobTypeDocument(task, (await pausedJobTypes(db)).get(task.type)));
}
