import { type AnyColumn, and, asc, desc, eq, getTableColumns, gte, lt, type SQL, sql } from 'drizzle-orm';
import type { Database, Queryable } from './client.ts';
import { inGroup, readyGroups } from './ready-jobs.ts';
import {
  JOB_STATUSES,
  type JobStatus,
  jobAttempts,
  jobDependencies,
  jobs,
  PRIORITIES,
  type Priority,
} from './schema.ts';

export type JobRow = typeof jobs.$inferSelect;
/** The columns that decide the position of a job. */
export type QueuedJob = Pick<JobRow, 'id' | 'status' | 'priority' | 'owner'>;
export type Attempt = typeof jobAttempts.$inferSelect;

/** Selects jobs. An absent member selects all. */
export interface JobFilter {
  owner?: string | undefined;
  status?: JobStatus | undefined;
  type?: string | undefined;
  priority?: Priority | undefined;
  uploadId?: string | undefined;
  createdAfter?: Date | undefined;
  createdBefore?: Date | undefined;
}

/** A job in a list. A large payload or result is null, and the job is `truncated`. */
export type ListedJob = Omit<JobRow, 'payload'> & { payload: JobRow['payload'] | null; truncated: boolean };

/** The maximum bytes of a payload or result, as text, in a list. */
const MAX_LISTED_BYTES = 4096;
/** The attempts in the document of a job: manual retries may add any number. */
const MAX_ATTEMPTS = 200;
/** Positions are not counted beyond this. */
const MAX_POSITION = 1000;

export function whereJobs({
  owner,
  status,
  type,
  priority,
  uploadId,
  createdAfter,
  createdBefore,
}: JobFilter): SQL | undefined {
  return and(
    owner === undefined ? undefined : eq(jobs.owner, owner),
    status && eq(jobs.status, status),
    type === undefined ? undefined : eq(jobs.type, type),
    priority && eq(jobs.priority, priority),
    uploadId === undefined ? undefined : eq(jobs.uploadId, uploadId),
    createdAfter && gte(jobs.createdAt, createdAfter),
    createdBefore && lt(jobs.createdAt, createdBefore),
  );
}

export async function findJob(db: Queryable, id: string): Promise<JobRow | undefined> {
  const [job] = await db.select().from(jobs).where(eq(jobs.id, id));
  return job;
}

/** In the order of the ids, without missing ones. */
export async function findJobs(db: Queryable, ids: string[]): Promise<JobRow[]> {
  if (ids.length === 0) return [];
  const found = await db
    .select()
    .from(jobs)
    .where(sql`${jobs.id} = any(${sql.param(ids)})`);
  const byId = new Map(found.map((job) => [job.id, job]));
  return ids.flatMap((id) => byId.get(id) ?? []);
}

/**
 * True if a value fits into a list. jsonb takes at most about four times the bytes of its text, so Postgres need not read a
 * value whose stored size is larger than that.
 */
const isSmall = (value: AnyColumn) => sql`case when ${value} is null then true
  when pg_column_size(${value}) > ${5 * MAX_LISTED_BYTES} then false
  else octet_length(${value}::text) <= ${MAX_LISTED_BYTES} end`;

const listedColumns = {
  ...getTableColumns(jobs),
  payload: sql<JobRow['payload'] | null>`case when ${isSmall(jobs.payload)} then ${jobs.payload} end`,
  result: sql<JobRow['result']>`case when ${isSmall(jobs.result)} then ${jobs.result} end`,
  truncated: sql<boolean>`not (${isSmall(jobs.payload)} and ${isSmall(jobs.result)})`,
};

/** In the order of the ids, without large payloads and results. */
export async function findListed(db: Queryable, ids: string[]): Promise<ListedJob[]> {
  const found = await db
    .select(listedColumns)
    .from(jobs)
    .where(sql`${jobs.id} = any(${sql.param(ids)})`);
  const byId = new Map(found.map((job) => [job.id, job]));
  return ids.flatMap((id) => byId.get(id) ?? []);
}

/** The last job of a page of a list. The time is in microseconds, which a Date cannot hold. */
export interface JobCursor {
  createdAt: number;
  id: string;
}

/**
 * Newest first, `limit` at most, older than `before`. `next` is null at the end. The query merges the pages of each selected
 * status and priority, so that an index answers every filter, however few jobs match it.
 */
export async function listJobs(
  db: Queryable,
  { status, priority, ...filter }: JobFilter,
  { limit, before }: { limit: number; before?: JobCursor | undefined },
): Promise<{ items: ListedJob[]; next: JobCursor | null }> {
  const oneOf = (values: readonly string[], wanted: string | undefined) =>
    sql`unnest(${sql.param(wanted === undefined ? values : [wanted])}::text[])`;
  const page = sql`
    select id, created_at from jobs where status = wanted_status and priority = wanted_priority
      and ${and(
        whereJobs(filter) ?? sql`true`,
        before &&
          sql`(created_at, id) < ('epoch'::timestamptz + ${before.createdAt} * interval '1 microsecond', ${before.id})`,
      )}
    order by created_at desc, id desc limit ${limit + 1}`;
  const { rows } = await db.execute<{ id: string; created_at: string }>(sql`
    select id, (extract(epoch from created_at) * 1000000)::bigint as created_at
    from ${oneOf(JOB_STATUSES, status)} wanted_status, ${oneOf(PRIORITIES, priority)} wanted_priority, lateral (${page}) page
    order by page.created_at desc, id desc limit ${limit + 1}`);
  const items = await findListed(
    db,
    rows.slice(0, limit).map(({ id }) => id),
  );
  const last = rows.length > limit ? rows[limit - 1] : undefined;
  return { items, next: last ? { createdAt: Number(last.created_at), id: last.id } : null };
}

export async function countAttempts(db: Queryable, jobId: string): Promise<number> {
  return db.$count(jobAttempts, eq(jobAttempts.jobId, jobId));
}

export async function countDependencies(db: Queryable, jobId: string): Promise<number> {
  return db.$count(jobDependencies, eq(jobDependencies.jobId, jobId));
}

/** The latest attempts of a job, oldest first. */
export async function listAttempts(db: Queryable, jobId: string): Promise<Attempt[]> {
  const latest = await db
    .select()
    .from(jobAttempts)
    .where(eq(jobAttempts.jobId, jobId))
    .orderBy(desc(jobAttempts.attempt))
    .limit(MAX_ATTEMPTS);
  return latest.reverse();
}

/** Jobs with their attempts and prerequisites in one snapshot, without missing ones. */
export async function findJobDetails(
  db: Database,
  ids: string[],
): Promise<{ job: JobRow; attempts: Attempt[]; dependsOn: string[] }[]> {
  return db.transaction(
    async (tx) => {
      const found = await findJobs(tx, ids);
      const latest = tx
        .select()
        .from(jobAttempts)
        .where(sql`${jobAttempts.jobId} = wanted`)
        .orderBy(desc(jobAttempts.attempt))
        .limit(MAX_ATTEMPTS)
        .as('latest');
      const attempts = await tx
        .select(latest._.selectedFields)
        .from(sql`unnest(${sql.param(ids)}::text[]) wanted`)
        .crossJoinLateral(latest)
        .orderBy(asc(latest.attempt));
      const attemptsOf = Map.groupBy(attempts, ({ jobId }) => jobId);
      const dependsOn = await dependenciesOf(tx, ids);
      return found.map((job) => ({
        job,
        attempts: attemptsOf.get(job.id) ?? [],
        dependsOn: dependsOn.get(job.id) ?? [],
      }));
    },
    { isolationLevel: 'repeatable read', accessMode: 'read only' },
  );
}

/** Up to `max` prerequisites of each job, by id. */
export async function someDependenciesOf(db: Queryable, ids: string[], max: number): Promise<Map<string, string[]>> {
  const { rows } = await db.execute<{ id: string; depends_on: string[] }>(sql`
    select wanted as id, array(
      select depends_on from job_dependencies where job_id = wanted order by depends_on limit ${max}) as depends_on
    from unnest(${sql.param(ids)}::text[]) wanted`);
  return new Map(rows.map((row) => [row.id, row.depends_on]));
}

/** The prerequisites of each job, by id. */
export async function dependenciesOf(db: Queryable, ids: string[]): Promise<Map<string, string[]>> {
  if (ids.length === 0) return new Map();
  const edges = await db
    .select()
    .from(jobDependencies)
    .where(sql`${jobDependencies.jobId} = any(${sql.param(ids)})`)
    .orderBy(asc(jobDependencies.jobId), asc(jobDependencies.dependsOn));
  const byJob = Map.groupBy(edges, ({ jobId }) => jobId);
  return new Map([...byJob].map(([id, list]) => [id, list.map(({ dependsOn }) => dependsOn)]));
}

/** The outcome of a prerequisite. The type is null if it was deleted. */
export type Prerequisite = Pick<JobRow, 'id' | 'result' | 'error'> & {
  type: string | null;
  status: JobStatus | 'deleted';
  /** True if it has a result that was left out. */
  truncated: boolean;
};

/**
 * The outcomes of the prerequisites of a job, by ascending id. Results are included up to `maxBytes` of JSON in all. The
 * stored size is checked first, so that Postgres does not read a large result only to leave it out.
 */
export async function listPrerequisites(db: Queryable, jobId: string, maxBytes: number): Promise<Prerequisite[]> {
  const { rows } = await db.execute<Prerequisite>(sql`
    with stored as (
      select depends_on as id, type, coalesce(jobs.status, outcome, 'deleted') as status, result, error,
        sum(pg_column_size(result)) over (order by depends_on) <= ${maxBytes} as fits
      from job_dependencies left join jobs on jobs.id = depends_on where job_id = ${jobId}
    ), written as (
      select *, sum(case when fits then octet_length(result::text) else 0 end) over (order by id) <= ${maxBytes} and fits as given
      from stored)
    select id, type, status, case when given then result end as result, error, result is not null and not given as truncated
    from written order by id`);
  return rows;
}

/** A related job in a graph. */
export type Relative = Pick<JobRow, 'id' | 'type' | 'status' | 'parentId' | 'owner'> & {
  /** Those of its prerequisites that are part of the graph. */
  dependsOn: string[];
};

/**
 * The job and its related jobs over any number of steps, nearest first: prerequisites, dependants, parents and children.
 * Jobs beyond `limit` are not read.
 */
export async function listRelatives(db: Queryable, id: string, limit: number): Promise<Relative[]> {
  const { rows } = await db.execute<Relative>(sql`
    with recursive reached as (
      select ${id}::text as id
      union
      select next.id from reached, lateral (
        select depends_on as id from job_dependencies where job_id = reached.id
        union all select job_id from job_dependencies where depends_on = reached.id
        union all select parent_id from jobs where jobs.id = reached.id and parent_id is not null
        union all select jobs.id from jobs where parent_id = reached.id) next
    ), nearest as (select id, row_number() over () as place from reached limit ${limit})
    select id, type, status, parent_id as "parentId", owner, array(
      select depends_on from job_dependencies where job_id = id and depends_on in (select id from nearest)
      order by depends_on) as "dependsOn"
    from nearest join jobs using (id) order by place`);
  return rows;
}

/**
 * One more than the number of ready jobs that start before this one, if all take equally long; a blocked job counts as ready
 * from now. Ahead of it are all jobs of a higher priority, its owner's older jobs, and of each other owner one more than
 * those. At most `MAX_POSITION`. Null for jobs that are neither ready nor blocked.
 */
export async function positionInQueue(db: Queryable, job: QueuedJob): Promise<number | null> {
  if (job.status !== 'ready' && job.status !== 'blocked') return null;
  const order = sql`array_position(array['critical', 'high', 'normal', 'low'], groups.priority)`;
  const isOwn = sql`groups.priority = ${job.priority} and groups.owner = ${job.owner ?? ''}`;
  const isOlder =
    job.status === 'blocked'
      ? sql`true`
      : sql`(jobs.arrived_at, jobs.id) < (select arrived_at, id from jobs where id = ${job.id})`;
  const { rows } = await db.execute<{ position: number }>(sql`
    ${readyGroups},
    counted as (
      select groups.priority, groups.owner, (${isOwn}) as own, (
        select count(*) from (
          select 1 from jobs where ${inGroup} and (not (${isOwn}) or ${isOlder}) limit ${MAX_POSITION}) ahead) as count
      from groups where ${order} <= array_position(array['critical', 'high', 'normal', 'low'], ${job.priority})),
    own as (select coalesce(sum(count), 0) as ahead from counted where own),
    others as (select priority, sum(count) as count from counted where not own group by priority, owner)
    select least(${MAX_POSITION}, 1 + own.ahead + coalesce(sum(
      case others.priority when ${job.priority} then least(others.count, own.ahead + 1) else others.count end), 0))::int as position
    from own left join others on true group by own.ahead`);
  return rows[0]?.position ?? 1;
}

/** The files that completed jobs of a type have written for these uploads. */
export async function listResultPaths(db: Queryable, type: string, uploadIds: string[]): Promise<string[]> {
  const { rows } = await db.execute<{ path: string }>(sql`
    select result->>'path' as path from jobs
    where type = ${type} and status = 'completed' and payload->>'upload_id' = any(${sql.param(uploadIds)})`);
  return rows.map(({ path }) => path);
}
