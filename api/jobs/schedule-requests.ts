import { z } from 'zod';
import { MISSED, OVERLAPS } from '../../db/schema.ts';
import { limit } from '../http/pagination.ts';

export const scheduleName = z
  .string()
  .regex(/^[\w.-]{1,100}$/, 'must be 1 to 100 letters, digits, dots, dashes or underscores');

export const scheduleRequest = z.strictObject({
  cron: z
    .string()
    .min(1)
    .max(200)
    .describe(
      'Five fields (minute, hour, day of month, month, day of week) or one of `@hourly` `@daily` `@weekly` `@monthly` `@yearly`',
    ),
  timezone: z.string().min(1).max(100).default('UTC').describe('A name in the IANA time zone database'),
  job: z.record(z.string(), z.unknown()),
  paused: z.boolean().default(false).describe('A paused schedule does not run'),
  overlap: z
    .enum(OVERLAPS)
    .default('allow')
    .describe('`skip` skips a run while the job of the previous run has not ended'),
  missed: z
    .enum(MISSED)
    .default('once')
    .describe('`once` runs once after an outage that missed one or more runs; `skip` does not'),
});

export const scheduleList = z.strictObject({
  limit,
  cursor: z.string().max(500).optional().describe('The `next_cursor` of the previous list'),
});
