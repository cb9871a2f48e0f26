import { type Answer, ask, withQuery } from '../api/http.ts';
import { type LiveList, useLiveList } from './live-list.ts';

type Job = Answer<'listedJob'>;

/** The filters of GET /jobs; empty means any. */
interface JobFilters {
  status: string;
  type: string;
  priority?: string;
  upload_id?: string;
  created_after?: string;
  created_before?: string;
}

/** The jobs that match, newest first. */
export function useJobList(filters: JobFilters): LiveList<Job> {
  return useLiveList<Job>({
    filter: () => ({ ...filters }),
    page: (cursor) => ask<Answer<'jobList'>>(withQuery('/jobs', { ...filters, limit: 200, cursor })),
    async one({ job_id }) {
      const job = await ask<Answer<'jobDetail'>>(`/jobs/${encodeURIComponent(job_id)}`);
      return filters.status === '' || job.status === filters.status ? job : undefined;
    },
    keyOf: ({ job_id }) => job_id,
    // Times are truncated to milliseconds here, but not in the order of the list.
    isBelow: (job, other) => job.created_at <= other.created_at,
    changedBy: ({ kind, job_id, type, upload_id }) =>
      kind === 'job' &&
      (filters.type === '' || type === filters.type) &&
      (!filters.upload_id || upload_id === filters.upload_id)
        ? job_id
        : undefined,
  });
}

/** All job types. */
export async function askTypes(): Promise<string[]> {
  const { items } = await ask<Answer<'jobTypeList'>>('/job-types');
  return items.map(({ type }) => type);
}
