import { z } from 'zod';
import { type ConversionContext, defineTask } from './task.ts';

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
  resources: { cpuUnits: 1, memoryMb: 256 },
  internal: true,
  run: async (context) =>
    (await import('../converter/convert/convert.ts')).convertPages(context as ConversionContext<ConvertRangePayload>),
});
