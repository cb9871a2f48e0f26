import { z } from 'zod';
import { defineTask, type TaskReturn } from './task.ts';

const convertRangePayload = z.object({
  upload_id: z.string(),
  original: z.int(),
  path: z.string(),
  media_type: z.enum(['application/pdf', 'image/png', 'image/jpeg']),
  /** Ascending ranges, both ends included. */
  pages: z.array(z.tuple([z.int(), z.int()])),
  /** Of each page in order: its scale (pixels per point), the dpi that makes, and why that is less than asked for. */
  fits: z.array(z.object({ scale: z.number(), dpi: z.number(), reduced: z.string().nullable() })),
});

export type ConvertRangePayload = z.output<typeof convertRangePayload>;

/** Converts some pages of an original that was inspected before. */
export const convertRange = defineTask({
  type: 'convert_range',
  payload: convertRangePayload,
  shape: { cpuUnits: 1, memoryMb: 256 },
  run: async (context): Promise<TaskReturn> => (await import('../converter/convert/convert.ts')).convertPages(context),
});
