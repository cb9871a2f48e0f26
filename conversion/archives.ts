import { sql } from 'drizzle-orm';
import type { Transaction } from '../db/client.ts';
import { postgresCode } from '../db/postgres-errors.ts';
import type { JobStatus } from '../db/schema.ts';
import { conflict } from '../jobs/change-lock.ts';
import type { NamedJob } from '../jobs/domain.ts';
import { RetryTransaction } from '../jobs/transition.ts';
import { AppError } from '../runtime/errors.ts';
import { archive } from './tasks/archive.ts';

/**
 * One archive of an upload at a time for each owner: an archive may be as large as the upload, so a flood of them would
 * fill the store.
 */

/** A new job that makes an archive of this upload. */
interface Archiving extends NamedJob {
  archiveOf: string;
}

/** The latest archive job of an upload. */
interface Latest {
  id: string;
  status: JobStatus;
  /** True if it has, or will have, the pages that the upload has now. */
  isCurrent: boolean;
  /** True if the upload has ended: only a retry adds pages. */
  isFinal: boolean;
}

const RETRY_AFTER_SECONDS = 5;
const FOREIGN_KEY_VIOLATION = '23503';

export function archivesAmong(jobs: NamedJob[]): Archiving[] {
  return jobs.flatMap((job) => {
    if (job.type !== archive.type) return [];
    return [{ ...job, archiveOf: archive.payload.parse(job.payload).upload_id }];
  });
}

/**
 * Maps each new job that would make an archive again to the job that makes or has made it, stored or before it in the
 * list. Throws 429 while another archive of the upload is being made, and `conflict` for a duplicate with its own id.
 */
export async function findCurrentArchives(tx: Transaction, archiving: Archiving[]): Promise<Map<string, string>> {
  if (archiving.length === 0) return new Map();
  const { rows } = await tx.execute<Latest & { name: string } & Record<string, unknown>>(sql`
    select latest.owner || '/' || latest.upload_id as name, jobs.id, jobs.status,
      case jobs.status
        when 'running' then uploads.finished_at < jobs.started_at
        when 'completed' then (jobs.result->>'pages')::int = uploads.pages_done
        else true end is true as "isCurrent",
      uploads.finished_at is not null as "isFinal"
    from (select distinct owner, upload_id from ${recordset(archiving)}) wanted
    join upload_archives latest using (owner, upload_id) join jobs on jobs.id = latest.job_id
    join uploads on uploads.id = latest.upload_id`);
  const latest = new Map<string, Latest>(rows.map(({ name, ...job }) => [name, job]));
  const duplicates = new Map<string, string>();
  for (const job of archiving) {
    const name = `${job.owner ?? ''}/${job.archiveOf}`;
    const before = latest.get(name);
    if (before === undefined || !isReused(before, job)) {
      const status = isReadyAtOnce(job) ? 'ready' : 'scheduled';
      latest.set(name, { id: job.id, status, isCurrent: true, isFinal: false });
      continue;
    }
    if (job.isNamed) throw conflict(`job_id: must be omitted, because job ${before.id} makes this archive`);
    duplicates.set(job.id, before.id);
  }
  return duplicates;
}

/**
 * Stores which jobs make the archives. Throws `RetryTransaction` when another transaction has just done so, and
 * `unknown_upload` (422) when the upload was deleted meanwhile.
 */
export async function storeArchives(tx: Transaction, archiving: Archiving[]): Promise<void> {
  if (archiving.length === 0) return;
  await tx.execute(sql`
    delete from upload_archives latest using ${recordset(archiving)}, jobs
    where latest.upload_id = x.upload_id and latest.owner = x.owner and jobs.id = latest.job_id and jobs.finished_at is not null`);
  const { rowCount } = await tx
    .execute(sql`
      insert into upload_archives (upload_id, owner, job_id)
      select upload_id, owner, job_id from ${recordset(archiving)} order by upload_id, owner on conflict do nothing`)
    .catch((error) => {
      if (postgresCode(error) !== FOREIGN_KEY_VIOLATION) throw error;
      throw new AppError('unknown_upload', 'payload: the upload was deleted', { status: 422, cause: error });
    });
  if (rowCount !== archiving.length) throw new RetryTransaction();
}

/** True if the request for `job` is answered with the job `before`; false when it gets a new job. */
function isReused(before: Latest, job: Archiving): boolean {
  switch (before.status) {
    case 'failed':
    case 'cancelled':
      return false;
    case 'completed':
      return before.isCurrent && (before.isFinal || isReadyAtOnce(job));
    case 'ready':
    case 'retrying':
      return true;
    case 'running':
      if (before.isCurrent) return true;
      throw busy(job, before);
    case 'scheduled':
    case 'blocked':
      throw busy(job, before);
    default:
      return before.status satisfies never;
  }
}

function isReadyAtOnce({ dependsOn = [], runAt }: Archiving): boolean {
  return dependsOn.length === 0 && !runAt;
}

function busy({ archiveOf }: Archiving, before: Latest): AppError {
  return new AppError(
    'too_many_requests',
    `one archive of an upload is made at a time: job ${before.id} of upload ${archiveOf} is ${before.status}`,
    { status: 429, details: { retry_after_seconds: RETRY_AFTER_SECONDS } },
  );
}

function recordset(jobs: Archiving[]) {
  const rows = jobs.map(({ id, owner, archiveOf }) => ({ owner: owner ?? '', upload_id: archiveOf, job_id: id }));
  return sql`jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) as x(owner text, upload_id uuid, job_id text)`;
}
