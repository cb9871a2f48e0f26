import { asc, inArray, sql } from 'drizzle-orm';
import type { Database } from '../../../db/client.ts';
import { converters, events, type JobStatus, jobAttempts, jobs } from '../../../db/schema.ts';
import type { Plan, PlannedJob } from './plan.ts';
import { stepOf } from './tasks.ts';

/** The accepted operations on the jobs of a run; jobs by index. */
export interface Interference {
  cancelled: number[];
  retried: number[];
  /** Names of converters whose processes got SIGKILL or SIGTERM. */
  killed: ReadonlySet<string>;
  terminated: ReadonlySet<string>;
}

/** The statuses that may follow each status; the first is before the job was stored. */
const WAYS: Record<JobStatus | 'none', JobStatus[]> = {
  none: ['ready', 'blocked', 'failed'],
  blocked: ['ready', 'failed', 'cancelled'],
  ready: ['running', 'cancelled'],
  running: ['completed', 'failed', 'retrying', 'ready', 'cancelled'],
  retrying: ['ready', 'cancelled'],
  failed: ['ready', 'blocked'],
  cancelled: ['ready', 'blocked'],
  completed: [],
  scheduled: [],
};

type Recorded = Awaited<ReturnType<typeof read>>[number];
type Attempt = Recorded['attempts'][number];

/** The differences between a finished run and the plan with its promises. */
export async function violationsOf(
  db: Database,
  { plan, idOf, interference }: { plan: Plan; idOf: (index: number) => string; interference: Interference },
): Promise<string[]> {
  const recorded = await read(
    db,
    plan.jobs.map((_, index) => idOf(index)),
  );
  const violations: string[] = [];
  for (const [index, job] of recorded.entries()) {
    const planned = plan.jobs[index] as PlannedJob;
    const report = (message: string) => violations.push(`${job.id}: ${message}`);
    checkHistory(planned, job, report);
    for (const attempt of job.attempts) checkAttempt(planned, attempt, interference, report);
    checkPrerequisites(
      job,
      planned.prerequisites.map((at) => recorded[at] as Recorded),
      report,
    );
    checkInterference(plan, index, job, interference, report);
  }
  return [...violations, ...(await overfull(db))];
}

type Report = (message: string) => void;

/** Follows a job from event to event: every way is allowed, and every end is what its attempts make of it. */
function checkHistory({ maxAttempts }: PlannedJob, job: Recorded, report: Report): void {
  let status: JobStatus | 'none' = 'none';
  let attempt = 0;
  let spent = 0;
  const numbers = job.attempts.map((each) => each.attempt);
  if (numbers.some((number, index) => number !== index + 1)) report(`attempts ${numbers}`);
  for (const event of job.events) {
    const next = event.status as JobStatus;
    const way = `${status} -> ${next} at attempt ${event.attempt}`;
    if (!WAYS[status].includes(next)) report(way);
    if (event.attempt !== (next === 'running' ? attempt + 1 : attempt)) report(`${way}, after attempt ${attempt}`);
    if (status === 'failed' || status === 'cancelled') spent = 0;
    if (status === 'running') {
      const ended = job.attempts[attempt - 1];
      if (ended === undefined) {
        report(`${way}, which has no row`);
        break;
      }
      if (ended.status === 'failed') spent++;
      const due = afterAttempt(ended, spent < maxAttempts);
      if (next !== due)
        report(`${way}, but the attempt ${ended.status} (${ended.code}) and ${spent} of ${maxAttempts} are spent`);
    } else if (next === 'failed' && event.code !== 'dependency_failed') report(`${way} for ${event.code}`);
    status = next;
    attempt = event.attempt ?? Number.NaN;
  }
  if (status !== job.status) report(`is ${job.status}, but its last event says ${status}`);
  if (attempt !== job.attempt || attempt !== job.attempts.length)
    report(`has ${job.attempts.length} attempts of ${attempt}`);
  if (spent !== job.failures) report(`counts ${job.failures} attempts spent, not ${spent}`);
  if (spent > maxAttempts) report(`has spent ${spent} attempts of ${maxAttempts}`);
  if (job.attempts.filter((each) => each.status === 'completed').length > 1) report('succeeded twice');
}

function afterAttempt({ status, code }: Attempt, triesLeft: boolean): JobStatus | undefined {
  if (status === 'completed' || status === 'cancelled') return status;
  if (status === 'returned') return 'ready';
  if (status === 'failed') return triesLeft && code !== 'corrupt_file' ? 'retrying' : 'failed';
}

/** An attempt ends as its script says, unless something happened to its converter. */
function checkAttempt(
  planned: PlannedJob,
  attempt: Attempt,
  { killed, terminated }: Interference,
  report: Report,
): void {
  const step = stepOf(planned, attempt.attempt);
  const tookMicroseconds = attempt.finished - attempt.started;
  const explained = {
    running: false,
    completed: step === 'complete',
    cancelled: true,
    returned: terminated.has(attempt.converter),
    snoozed: false,
    failed:
      (attempt.code === 'converter_lost' && killed.has(attempt.converter)) ||
      (attempt.code === 'timeout' && tookMicroseconds >= planned.timeoutSeconds * 1e6) ||
      (attempt.code === 'task_failed' && step === 'fail') ||
      (attempt.code === 'corrupt_file' && step === 'fail_permanently') ||
      (attempt.code === 'out_of_memory' && step === 'kill' && planned.sandboxed),
  }[attempt.status];
  if (!explained)
    report(`attempt ${attempt.attempt}, to ${step}, ${attempt.status} (${attempt.code}) on ${attempt.converter}`);
}

function checkPrerequisites(job: Recorded, prerequisites: Recorded[], report: Report): void {
  const dead = prerequisites.find(({ status }) => status !== 'completed');
  if (dead !== undefined) {
    const asItShould = job.status === 'cancelled' || (job.status === 'failed' && job.code === 'dependency_failed');
    if (!asItShould) report(`is ${job.status} (${job.code}), but its prerequisite ${dead.id} is ${dead.status}`);
    if (job.attempts.length > 0) report(`ran, but its prerequisite ${dead.id} is ${dead.status}`);
  } else if (job.code === 'dependency_failed') report('has failed for a prerequisite, but all of them completed');
  for (const { id, attempts } of prerequisites) {
    const completed = attempts.find(({ status }) => status === 'completed')?.finished ?? Number.POSITIVE_INFINITY;
    const early = job.attempts.find(({ started }) => started < completed);
    if (early) report(`attempt ${early.attempt} started ${completed - early.started} us before ${id} completed`);
  }
}

/** Jobs are cancelled and run again when that was asked for, and otherwise not. */
function checkInterference(
  plan: Plan,
  index: number,
  job: Recorded,
  { cancelled, retried }: Interference,
  report: Report,
): void {
  const times = (list: number[], of: number) => list.filter((each) => each === of).length;
  const cancels = job.events.filter(({ status }) => status === 'cancelled').length;
  if (cancels !== times(cancelled, index)) report(`was cancelled ${cancels} times, not ${times(cancelled, index)}`);
  const again = job.events.filter((_, at) => ['failed', 'cancelled'].includes(job.events[at - 1]?.status ?? '')).length;
  const retriedByItself = times(retried, index);
  const withAncestors = [...ancestorsOf(plan, index)].reduce((sum, at) => sum + times(retried, at), retriedByItself);
  if (again < retriedByItself || again > withAncestors)
    report(
      `started again ${again} times, but was retried ${retriedByItself} times, ${withAncestors} with what it depends on`,
    );
}

function ancestorsOf(plan: Plan, index: number): Set<number> {
  const direct = plan.jobs[index]?.prerequisites ?? [];
  return new Set(direct.flatMap((at) => [at, ...ancestorsOf(plan, at)]));
}

/** Converters whose attempts, as far as they overlap, were ever more than their capacity. */
async function overfull(db: Database): Promise<string[]> {
  const rooms = new Map((await db.select().from(converters)).map((room) => [room.id, room]));
  const attempts = await db
    .select({
      ...INTERVAL,
      converterId: jobAttempts.converterId,
      cpu: jobAttempts.cpuUnits,
      memory: jobAttempts.memoryMb,
    })
    .from(jobAttempts);
  const found: string[] = [];
  for (const [id, own] of Map.groupBy(attempts, ({ converterId }) => converterId)) {
    const room = rooms.get(id);
    const changes = own
      .flatMap(({ started, finished, cpu, memory }) => [
        { at: started, cpu, memory },
        { at: finished, cpu: -cpu, memory: -memory },
      ])
      // An end and a start in the same microsecond do not overlap.
      .sort((a, b) => a.at - b.at || a.memory - b.memory);
    let [cpu, memory] = [0, 0];
    for (const change of changes) {
      cpu += change.cpu;
      memory += change.memory;
      if (room === undefined || cpu > room.cpuUnits || memory > room.memoryMb)
        found.push(`converter ${id} has ${room?.cpuUnits} CPU and ${room?.memoryMb} MB, and ran ${cpu} and ${memory}`);
    }
  }
  return found;
}

/** In microseconds, which a double holds exactly; what has not finished does so at the end of time. */
const INTERVAL = {
  started: sql<number>`(extract(epoch from ${jobAttempts.startedAt}) * 1000000)::float8`,
  finished: sql<number>`(extract(epoch from coalesce(${jobAttempts.finishedAt}, '2100-01-01')) * 1000000)::float8`,
};

/** The jobs in the order of their ids as given, each with its attempts and its changes of status in order. */
async function read(db: Database, ids: string[]) {
  const stored = await db
    .select({
      id: jobs.id,
      status: jobs.status,
      attempt: jobs.attempt,
      failures: jobs.failures,
      code: sql<string | null>`${jobs.error}->>'code'`,
    })
    .from(jobs)
    .where(inArray(jobs.id, ids));
  const attempts = await db
    .select({
      ...INTERVAL,
      jobId: jobAttempts.jobId,
      attempt: jobAttempts.attempt,
      status: jobAttempts.status,
      code: sql<string | null>`${jobAttempts.error}->>'code'`,
      converter: jobAttempts.converter,
    })
    .from(jobAttempts)
    .where(inArray(jobAttempts.jobId, ids))
    .orderBy(asc(jobAttempts.attempt));
  const told = await db
    .select({
      jobId: events.jobId,
      status: events.status,
      attempt: events.attempt,
      code: sql<string | null>`${events.data}->>'code'`,
    })
    .from(events)
    .where(inArray(events.jobId, ids))
    .orderBy(asc(events.id));
  return ids.map((id) => {
    const job = stored.find((each) => each.id === id);
    if (job === undefined) throw new Error(`no job ${id}`);
    return {
      ...job,
      attempts: attempts.filter(({ jobId }) => jobId === id),
      events: told.filter(({ jobId }) => jobId === id),
    };
  });
}
