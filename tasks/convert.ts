import { z } from 'zod';
import { type ConversionContext, defineTask } from './task.ts';

const convertPayload = z.object({
  upload_id: z.string(),
  original: z.int(),
  path: z.string(),
  media_type: z.enum(['application/pdf', 'image/png', 'image/jpeg']),
  dpi: z.int(),
  /** The selection as the client wrote it; null means every page. */
  page_selection: z.string().nullable(),
});

export type ConvertPayload = z.output<typeof convertPayload>;

/** Inspects an original; converts it there and then if it is small, or else splits it into ranges. */
export const convert = defineTask({
  type: 'convert',
  payload: convertPayload,
  resources: { cpuUnits: 1, memoryMb: 256 },
  internal: true,
  run: async (context) =>
    (await import('../converter/convert/convert.ts')).convertOriginal(context as ConversionContext<ConvertPayload>),
});
