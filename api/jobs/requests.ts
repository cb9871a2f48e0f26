import { z } from 'zod';
import type { Tasks } from '../../conversion/registry.ts';
import { archive } from '../../conversion/tasks/archive.ts';
import type { Database } from '../../db/client.ts';
import { findJobs } from '../../db/jobs.ts';
import { PRIORITIES, RUN_ON } from '../../db/schema.ts';
import { isStorable } from '../../db/storable.ts';
import { listUploadIds } from '../../db/uploads.ts';
import type { JobChange } from '../../jobs/change.ts';
import { refuseCycle } from '../../jobs/dependencies.ts';
import { memoryClass } from '../../jobs/shape.ts';
import { DEFAULTS, type NewJob } from '../../jobs/submit.ts';
import type { TaskDefinition } from '../../jobs/task.ts';
import { AppError } from '../../runtime/errors.ts';
import { type Caller, isVisible } from '../http/caller.ts';
import { moment, notifyUrl } from '../http/fields.ts';
import { fingerprintOf } from '../http/idempotency.ts';
import { invalid } from '../http/problem.ts';
import { parse } from '../http/validate.ts';

export const MAX_JOBS = 1_000;
const MAX_EDGES = 10_000;
const MAX_PAYLOAD_CHARACTERS = 256 * 1024;
const MAX_KEY_BYTES = 200;
const MAX_TIMEOUT_SECONDS = 12 * 3_600;
/** Timers have a resolution of one millisecond, and smaller numbers do not fit the column. */
const MIN_DELAY_SECONDS = 0.001;
const MAX_DELAY_SECONDS = 3_600;
const MAX_PERIOD_SECONDS = 365 * 86_400;
const MAX_YEARS_AHEAD = 30;

export const jobId = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9._:-]{0,199}$/, 'must be 1 to 200 letters, digits, dots, colons, dashes or underscores')
  .refine((id) => id !== 'stream', 'must not be "stream", which is the path of the event stream')
  .meta({ not: { const: 'stream' } });

const place = {
  job_id: jobId.optional().describe('An id chosen by the client. Sending the same job with the same id again is safe'),
  depends_on: z
    .array(jobId)
    .max(1_000)
    .nullish()
    .describe('Ids of jobs that must end first (see `run_on`): existing ones, or others of the batch'),
};

/** Parsed first, so that errors of the graph are reported before errors of a type. */
const graphOfJob = z.object(place);

/** A job of a schedule, which has no id and no dependencies. */
export const scheduledJob = z.strictObject({
  type: z.string().min(1).max(200).describe('A type of `GET /job-types` that is not `internal`'),
  priority: z.enum(PRIORITIES).default(DEFAULTS.priority),
  payload: z
    .record(z.string(), z.unknown())
    .default({})
    .describe('Valid by the JSON Schema of the type. Numbers are IEEE doubles: send longer integers as strings'),
  resource_requirements: z
    .strictObject({
      cpu_units: z.int().min(0).max(1_024).optional(),
      memory_mb: z.int().min(1).max(16_384).optional(),
    })
    .default({})
    .describe('Resources that the job reserves; the default depends on the type. Memory is rounded up to a class'),
  retry_config: z
    .strictObject({
      max_attempts: z.int().min(1).max(100).default(DEFAULTS.maxAttempts),
      backoff_multiplier: z.number().min(1).max(100).default(DEFAULTS.backoffMultiplier),
      initial_delay_seconds: z
        .number()
        .min(0)
        .max(MAX_DELAY_SECONDS)
        .refine(
          (seconds) => seconds === 0 || seconds >= MIN_DELAY_SECONDS,
          `must be 0, or from ${MIN_DELAY_SECONDS} to ${MAX_DELAY_SECONDS}`,
        )
        .default(DEFAULTS.initialDelaySeconds)
        .describe(`0, or from ${MIN_DELAY_SECONDS}`),
    })
    .prefault({}),
  timeout_seconds: z
    .int()
    .min(1)
    .max(MAX_TIMEOUT_SECONDS)
    .default(DEFAULTS.timeoutSeconds)
    .describe('Timeout of each attempt'),
  notify_url: notifyUrl.nullish(),
  concurrency_key: z
    .string()
    .min(1, 'must not be empty')
    .refine((key) => Buffer.byteLength(key) <= MAX_KEY_BYTES, `must be at most ${MAX_KEY_BYTES} bytes of UTF-8`)
    .refine(isStorable, 'must not contain NUL or a lone surrogate')
    .nullish()
    .describe('Of jobs with the same type and key, at most `concurrency.per_key` of the type run at a time')
    .meta({ maxLength: MAX_KEY_BYTES }),
});

const runAt = moment.refine(
  (date) => date.getTime() < Date.now() + MAX_YEARS_AHEAD * 365 * 86_400_000,
  `must be less than ${MAX_YEARS_AHEAD} years in the future`,
);

export const newJob = scheduledJob.extend({
  ...place,
  run_on: z
    .enum(RUN_ON)
    .default(DEFAULTS.runOn)
    .describe(
      'When the job runs after its dependencies have ended: if all completed (`success`), if not all completed (`failure`), or `always`',
    ),
  unique: z
    .strictObject({
      key: z.string().min(1).max(200),
      period_seconds: z.int().min(1).max(MAX_PERIOD_SECONDS),
    })
    .nullish()
    .describe('During this period, submitting a job with the same type and key returns this job, in any status'),
  run_at: runAt
    .nullish()
    .transform((date) => date ?? null)
    .describe('The earliest start'),
});

/** The fields of a waiting job that can change. */
export const jobChange = z
  .strictObject({
    priority: z.enum(PRIORITIES).optional(),
    run_at: runAt.nullable().optional().describe('The earliest start; null or a time in the past means now'),
    payload: z.record(z.string(), z.unknown()).optional().describe('Replaces the payload'),
  })
  .refine(
    (change) => Object.values(change).some((value) => value !== undefined),
    'the change must have at least one field',
  )
  .meta({ minProperties: 1 });

/** Parses the change of a job of this type. Throws 400 with the field that is wrong. */
export async function readJobChange(
  db: Database,
  tasks: Tasks,
  caller: Caller,
  type: string,
  body: unknown,
): Promise<JobChange> {
  const { priority, run_at, payload } = parse(jobChange, body);
  const change = {
    ...(priority !== undefined && { priority }),
    ...(run_at !== undefined && { runAt: run_at }),
  };
  if (payload === undefined) return change;
  const task = tasks.get(type);
  if (task === undefined) throw invalid(`payload: the job type ${JSON.stringify(type)} no longer exists`);
  if (task.type === archive.type) throw invalid('payload: the payload of an archive cannot change');
  const read = readPayload(task, payload, '');
  await checkUploads(db, tasks, caller, [{ type, payload: read }]);
  return { ...change, payload: read };
}

/**
 * Parses a job or a batch. Throws 422 (`dependency_cycle`, `unknown_dependency`) for a wrong graph, then 400 with the field
 * that is wrong. Jobs and uploads that the caller may not see count as missing.
 */
export async function readJobs(db: Database, tasks: Tasks, caller: Caller, body: unknown): Promise<NewJob[]> {
  const isBatch = Array.isArray(body);
  const written: unknown[] = isBatch ? body : [body];
  if (written.length === 0) throw invalid('a batch must have at least one job');
  if (written.length > MAX_JOBS) throw invalid(`a batch may have at most ${MAX_JOBS} jobs (got ${written.length})`);
  const at = (index: number) => (isBatch ? `${index}.` : '');
  const graph = written.map((job, index) => parse(graphOfJob, job, at(index)));
  await checkGraph(db, caller, graph);
  const jobs = written.map((job, index) => readJob(tasks, parse(newJob, job, at(index)), at(index)));
  await checkUploads(db, tasks, caller, jobs);
  return jobs.map((job) => ({ ...job, owner: caller.owner }));
}

/** Parses the job of a schedule. */
export async function readScheduledJob(db: Database, tasks: Tasks, caller: Caller, body: unknown): Promise<NewJob> {
  const job = readJob(tasks, { ...parse(scheduledJob, body, 'job.'), run_at: null, run_on: DEFAULTS.runOn }, 'job.');
  await checkUploads(db, tasks, caller, [job]);
  return job;
}

function readJob(tasks: Tasks, job: z.output<typeof newJob>, at: string): NewJob {
  const task = tasks.get(job.type);
  if (task === undefined || task.internal) {
    const known = [...tasks.values()].filter(({ internal }) => !internal).map(({ type }) => type);
    throw invalid(`${at}type: must be one of ${known.join(', ')} (got ${JSON.stringify(job.type)})`);
  }
  const {
    job_id: id,
    depends_on,
    run_on,
    unique,
    run_at,
    retry_config,
    timeout_seconds,
    resource_requirements: wanted,
  } = job;
  const cpuUnits = wanted.cpu_units ?? task.resources.cpuUnits;
  if (cpuUnits === 0 && !task.trusted) {
    throw invalid(`${at}resource_requirements.cpu_units: must be at least 1 for a task that runs in a sandbox (got 0)`);
  }
  const read = {
    type: job.type,
    priority: job.priority,
    payload: readPayload(task, job.payload, at),
    shape: { cpuUnits, memoryMb: memoryClass(wanted.memory_mb ?? task.resources.memoryMb) },
    dependsOn: [...new Set(depends_on)],
    // The default is omitted, so that fingerprints of jobs stored by earlier versions still match.
    ...(run_on !== DEFAULTS.runOn && { runOn: run_on }),
    runAt: run_at,
    timeoutSeconds: timeout_seconds,
    maxAttempts: retry_config.max_attempts,
    initialDelaySeconds: retry_config.initial_delay_seconds,
    backoffMultiplier: retry_config.backoff_multiplier,
    notifyUrl: job.notify_url ?? undefined,
    // Absent fields are omitted, for the same reason.
    ...(unique && { unique: { key: unique.key, periodSeconds: unique.period_seconds } }),
    ...(job.concurrency_key != null && { concurrencyKey: job.concurrency_key }),
  };
  return id === undefined ? read : { ...read, id, fingerprint: fingerprintOf(read) };
}

function readPayload(task: TaskDefinition, payload: unknown, at: string): Record<string, unknown> {
  const read = parse(task.payload, payload, `${at}payload.`);
  const size = JSON.stringify(read).length;
  if (size > MAX_PAYLOAD_CHARACTERS)
    throw invalid(`${at}payload: must have at most ${MAX_PAYLOAD_CHARACTERS} characters of JSON (got ${size})`);
  return read;
}

async function checkGraph(db: Database, caller: Caller, graph: z.output<typeof graphOfJob>[]): Promise<void> {
  const dependsOn = new Map<string, string[]>();
  for (const [index, { job_id = `#${index}`, depends_on }] of graph.entries()) {
    if (dependsOn.has(job_id)) throw invalid(`${index}.job_id: must be unique in the batch (got ${job_id} twice)`);
    dependsOn.set(job_id, depends_on ?? []);
  }
  const edges = [...dependsOn.values()].flat();
  if (edges.length > MAX_EDGES)
    throw invalid(`depends_on: a batch may have at most ${MAX_EDGES} dependencies (got ${edges.length})`);
  refuseCycle(dependsOn);
  const outside = [...new Set(edges)].filter((id) => !dependsOn.has(id));
  const stored = (await findJobs(db, outside)).filter((job) => isVisible(job, caller));
  const seen = new Set(stored.map(({ id }) => id));
  const unknown = outside.find((id) => !seen.has(id));
  if (unknown !== undefined) {
    throw new AppError('unknown_dependency', `depends_on: there is no job ${unknown}`, { status: 422 });
  }
}

/** Refuses jobs that read an upload which does not exist, since they could only fail. */
async function checkUploads(
  db: Database,
  tasks: Tasks,
  { sees }: Caller,
  jobs: Pick<NewJob, 'type' | 'payload'>[],
): Promise<void> {
  const read = [...new Set(jobs.flatMap(({ type, payload }) => tasks.get(type)?.reads?.(payload) ?? []))];
  const stored = await listUploadIds(db, read, sees);
  const missing = read.find((id) => !stored.has(id));
  if (missing !== undefined) {
    throw new AppError('unknown_upload', `payload: there is no upload ${missing}`, { status: 422 });
  }
}
