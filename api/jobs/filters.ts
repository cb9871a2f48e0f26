import { z } from 'zod';
import { ENDED, JOB_STATUSES, OPEN_STATUSES, PRIORITIES } from '../../db/schema.ts';
import { moment, wholeNumber } from '../http/fields.ts';
import { limit } from '../http/pagination.ts';

/** The queries that select jobs and lines of their logs. */

const jobFilter = {
  type: z
    .string()
    .regex(/^[^\0]{1,200}$/, 'must be 1 to 200 characters')
    .optional(),
  priority: z.enum(PRIORITIES).optional(),
  upload_id: z.uuid().optional(),
  created_after: moment.optional(),
  created_before: moment.optional(),
};

export const jobList = z.strictObject({
  status: z.enum(JOB_STATUSES).optional(),
  ...jobFilter,
  limit,
  cursor: z.string().max(500).optional().describe('The `next_cursor` of the previous list'),
});

export const jobsToRetry = z.strictObject({ status: z.enum(['failed', 'cancelled']), ...jobFilter });

const hasFilter = (filter: object) => Object.values(filter).some((value) => value !== undefined);
const FILTER_NEEDED =
  'at least one filter is required: status, type, priority, upload_id, created_after or created_before';

export const jobsToCancel = z
  .strictObject({ status: z.enum(OPEN_STATUSES).optional(), ...jobFilter })
  .refine(hasFilter, FILTER_NEEDED);

export const jobsToDelete = z
  .strictObject({ status: z.enum(ENDED).optional(), ...jobFilter })
  .refine(hasFilter, FILTER_NEEDED);

const after = wholeNumber(0, Number.MAX_SAFE_INTEGER);

export const logList = z
  .strictObject({
    after: after.default(0).describe('Only lines with a higher `id`'),
    cursor: after.optional().describe('The `next_cursor` of the previous list: the id of its last line'),
    limit,
  })
  .transform(({ after, cursor, limit }) => ({ after: cursor ?? after, limit }));
