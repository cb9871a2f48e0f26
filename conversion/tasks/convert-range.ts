import { z } from 'zod';
import { conversionShape, ORDINARY_MB } from '../../jobs/shape.ts';
import { type ConversionContext, defineTask } from '../../jobs/task.ts';
import { toRanges } from '../page-ranges.ts';
import { convertPayload } from './convert.ts';

export const convertRangePayload = convertPayload.omit({ page_selection: true }).extend({
  /** Ascending ranges, both ends included. */
  pages: z.array(z.tuple([z.int(), z.int()])),
});

export type ConvertRangePayload = z.output<typeof convertRangePayload>;

/** Converts some pages of an original that was inspected before. */
export const convertRange = defineTask({
  type: 'convert_range',
  payload: convertRangePayload,
  resources: conversionShape(ORDINARY_MB),
  internal: true,
  run: async (context) =>
    (await import('../../converter/render/convert.ts')).convertPages(context as ConversionContext<ConvertRangePayload>),
});

/** The payload for some pages, in ascending order, of what this conversion converts. */
export function rangeOf(payload: Record<string, unknown>, pages: number[]): ConvertRangePayload {
  return { ...convertRangePayload.omit({ pages: true }).parse(payload), spent_seconds: 0, pages: toRanges(pages) };
}
