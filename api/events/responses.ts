import { z } from 'zod';
import { time } from '../http/fields.ts';

/** A message of the stream. Events of pages have their place, too. */
export const event = z.strictObject({
  id: z.int(),
  kind: z.enum(['job', 'page', 'upload']),
  job_id: z.string().nullable(),
  upload_id: z.uuid().nullable(),
  type: z.string().nullable(),
  status: z.string().nullable(),
  attempt: z.int().nullable(),
  progress: z.record(z.string(), z.number().nullable()).nullable(),
  original: z.int().optional(),
  page: z.int().optional(),
  at: time,
});
