import { createHash } from 'node:crypto';
import type { Database } from '../db/client.ts';
import type { Queues, Schedule } from '../db/queues.ts';
import { acceptJobs } from './accept.ts';
import type { NewJob } from './submit.ts';

/** What a schedule keeps: the job as the client wrote it, and as it is submitted each time. */
interface ScheduledJob {
  request: Record<string, unknown>;
  job: Omit<NewJob, 'id' | 'runAt' | 'dependsOn'>;
}

export type JobSchedule = Schedule<ScheduledJob> & { key: string };

/**
 * Submits the job of each occurrence, under an id made from the occurrence's: delivered twice, it is there once. Each
 * process that calls this shares the work.
 */
export async function followSchedules(db: Database, queues: Queues): Promise<void> {
  await queues.followSchedules(async (occurrence, data) => {
    const { job } = data as ScheduledJob;
    await acceptJobs(db, queues, [{ ...job, id: `job_${occurrence}`, fingerprint: occurrence }]);
  });
}

/** Under which a schedule is kept: names belong to their owner, and one may write what pg-boss takes in no key. */
export function scheduleKey(owner: string | null, name: string): string {
  return owner === null ? name : `${createHash('sha256').update(owner).digest('hex').slice(0, 32)}/${name}`;
}

/** By name; those of one owner if it is named. There are as many as people have made, so one answer holds them all. */
export async function listSchedules(queues: Queues, owner: string | undefined): Promise<JobSchedule[]> {
  const schedules = (await queues.listSchedules()) as Schedule<ScheduledJob>[];
  return schedules
    .filter(({ data }) => owner === undefined || data.job.owner === owner)
    .map((schedule) => ({ ...schedule, key: schedule.name, name: schedule.name.split('/').at(-1) as string }))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}
