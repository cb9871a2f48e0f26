import { z } from 'zod';
import { time } from '../http/fields.ts';
import { listOf } from '../http/pagination.ts';

export const webhook = z.strictObject({
  id: z.uuid(),
  url: z.string(),
  type: z.string(),
  status: z.enum(['pending', 'delivered', 'failed']),
  created_at: time,
  finished_at: time.nullable(),
  attempts: z.array(
    z.strictObject({
      attempt: z.int(),
      started_at: time,
      duration_ms: z.int(),
      status_code: z.int().nullable(),
      error: z.string().nullable(),
    }),
  ),
});
export const webhookList = listOf(webhook);
