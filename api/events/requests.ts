import { z } from 'zod';
import { wholeNumber } from '../http/fields.ts';

export const streamQuery = z.strictObject({
  job_id: z
    .string()
    .regex(/^[^\0]{1,200}$/, 'must be 1 to 200 characters')
    .optional(),
  upload_id: z.uuid().optional(),
  after: wholeNumber(0, Number.MAX_SAFE_INTEGER)
    .optional()
    .describe('The id of an event: sends the stored events after it first. Default: only new events'),
});
