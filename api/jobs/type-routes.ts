import { type Request, Router } from 'express';
import type { Tasks } from '../../conversion/registry.ts';
import type { Database } from '../../db/client.ts';
import { pausedJobTypes, pauseJobType, resumeJobType } from '../../jobs/pause.ts';
import type { Task } from '../../jobs/task.ts';
import type { Logger } from '../../runtime/log.ts';
import { jobTypeDocument } from '../documents.ts';
import { callerOf } from '../http/admission.ts';
import { notFound } from '../http/problem.ts';

/** Job types: their payloads and limits, and whether they are paused. */
export function jobTypeRoutes({ db, tasks, log }: { db: Database; tasks: Tasks; log: Logger }): Router {
  const router = Router();

  router.get('/job-types', async (_request, response) => {
    const paused = await pausedJobTypes(db);
    const items = [...tasks.values()].map((task) => jobTypeDocument(task, paused.get(task.type)));
    response.json({ items, next_cursor: null });
  });

  router.post('/job-types/:type/pause', async (request, response) => {
    const task = requestedTask(request);
    await pauseJobType(db, task.type);
    log.info({ type: task.type, owner: callerOf(request).owner }, 'job type paused');
    response.json(await describe(task));
  });

  router.post('/job-types/:type/resume', async (request, response) => {
    const task = requestedTask(request);
    await resumeJobType(db, task.type);
    log.info({ type: task.type, owner: callerOf(request).owner }, 'job type resumed');
    response.json(await describe(task));
  });

  function requestedTask(request: Request<{ type: string }>): Task {
    const { type } = request.params;
    const task = tasks.get(type);
    if (task === undefined) throw notFound(`job type ${type}`);
    return task;
  }

  async function describe(task: Task) {
    return jobTypeDocument(task, (await pausedJobTypes(db)).get(task.type));
  }

  return router;
}
