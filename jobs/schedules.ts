import type { Database } from '../db/client.ts';
import type { Queues, Schedule } from '../db/queues.ts';
import { acceptJobs } from './accept.ts';
import type { NewJob } from './submit.ts';

/** What a schedule keeps: the job as the client wrote it, and as it is submitted each time. */
interface ScheduledJob {
  request: Record<string, unknown>;
  job: Omit<NewJob, 'id' | 'runAt' | 'dependsOn'>;
}

export type JobSchedule = Schedule<ScheduledJob>;

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

/** By name. There are as many as people have made, so one answer holds them all. */
export async function listSchedules(queues: Queues): Promise<JobSchedule[]> {
  const schedules = (await queues.listSchedules()) as JobSchedule[];
  return schedules.sort((a, b) => (a.name < b.name ? -1 : 1));
}
