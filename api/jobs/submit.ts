import type { Request, Response } from 'express';
import type { Tasks } from '../../conversion/registry.ts';
import type { Database, Transaction } from '../../db/client.ts';
import type { Answer } from '../../db/idempotency.ts';
import { dependenciesOf, type JobRow, positionInQueue } from '../../db/jobs.ts';
import type { Queues } from '../../db/queues.ts';
import { acceptJobs } from '../../jobs/accept.ts';
import { fingerprintOf, idempotencyOf, keepForKeys, sendAnswer } from '../http/idempotency.ts';
import { callerOf, stateOf } from '../http/request-state.ts';
import { type Guard, refuseForbidden } from '../webhooks/ssrf-guard.ts';
import { jobDocument } from './documents.ts';
import { type QueueBounds, usageOf } from './queue-bounds.ts';
import { readJobs } from './requests.ts';

/** Ids of a batch that its line in the log names. */
const MAX_LOGGED = 100;

export interface SubmitParts {
  db: Database;
  queues: Queues;
  bounds: QueueBounds;
  tasks: Tasks;
  guard: Guard;
}

/** `POST /jobs`: stores one job, or a batch as a whole. The answer is kept for a repeat in the same transaction. */
export async function submit(parts: SubmitParts, request: Request, response: Response): Promise<void> {
  const { db, queues, bounds, tasks, guard } = parts;
  const fingerprint = fingerprintOf(request.body);
  const idempotency = idempotencyOf(request);
  const known = idempotency.known(fingerprint);
  if (known !== undefined) return sendAnswer(response, known);
  const { traceparent } = stateOf(request);
  const jobs = (await readJobs(db, tasks, callerOf(request), request.body)).map((job) => ({ ...job, traceparent }));
  for (const { notifyUrl } of jobs) refuseForbidden(guard, notifyUrl);
  const isBatch = Array.isArray(request.body);
  let answer: Answer = { status: 201, location: null, body: null };
  const release = await bounds.reserve(callerOf(request).owner, usageOf(jobs));
  const accepted = await acceptJobs(db, queues, jobs, async (tx, stored) => {
    answer = await describe(tx, stored, isBatch);
    await keepForKeys(tx, [{ idempotency, fingerprint, answer }]);
  }).finally(release);
  if (isBatch) stateOf(request).loggedJobs = accepted.slice(0, MAX_LOGGED).map(({ id }) => id);
  sendAnswer(response, answer);
}

async function describe(tx: Transaction, jobs: JobRow[], isBatch: boolean): Promise<Answer> {
  const ids = jobs.map(({ id }) => id);
  const dependsOn = await dependenciesOf(tx, ids);
  const [job] = jobs;
  if (isBatch || job === undefined) {
    const items = jobs.map((one) => jobDocument(one, dependsOn.get(one.id)));
    return { status: 201, location: null, body: { items } };
  }
  const position = await positionInQueue(tx, job);
  const location = `/jobs/${encodeURIComponent(job.id)}`;
  return { status: 201, location, body: jobDocument(job, dependsOn.get(job.id), position) };
}
