import { sql } from 'drizzle-orm';
import type { Domain } from '../jobs/domain.ts';
import { archivesAmong, findCurrentArchives, storeArchives } from './archives.ts';
import { failRemainingPages } from './fail-pages.ts';
import { finishUpload, reopenUpload } from './finish-upload.ts';
import { forgetFailures, hasFailedPages, partsToRetry } from './retry-pages.ts';

/** Uploads and pages change in the transactions of their jobs. Hooks lock pages, original and upload in this order. */
export const conversionDomain: Domain = {
  whenStarted: sql`
    update uploads set status = 'processing'
    where id in (select upload_id from claimed) and status = 'queued'`,

  async onEnded(tx, { job, error }) {
    if (job.uploadId === null) return;
    // A job that was split has left its pages to its children.
    if (error !== undefined && job.pendingChildren === 0) await failRemainingPages(tx, job, error);
    // The upload of a child ends with the child's parent.
    if (job.parentId === null) await finishUpload(tx, job.uploadId);
  },

  isRetryable: hasFailedPages,

  async beforeRetry(tx, job, children) {
    return partsToRetry(await forgetFailures(tx, job), job, children);
  },

  async onRetried(tx, job) {
    if (job.uploadId !== null) await reopenUpload(tx, job.uploadId);
  },

  findDuplicates: (tx, jobs) => findCurrentArchives(tx, archivesAmong(jobs)),
  onAccepted: (tx, jobs) => storeArchives(tx, archivesAmong(jobs)),
};
