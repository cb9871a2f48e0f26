import { z } from 'zod';
import { limit } from '../http/pagination.ts';

export const webhookList = z.strictObject({
  limit,
  cursor: z.uuid().optional().describe('The `next_cursor` of the previous list: the id of its last webhook'),
});
