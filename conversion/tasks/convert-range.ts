import { z } from 'zod';
import { ORDINARY_MB } from '../../jobs/shape.ts';
import { conversionShape } from '../conversion-shape.ts';
import type { ConversionTask } from '../conversion-task.ts';
import { toRanges } from '../page-selection.ts';
import { convertPayload } from './convert.ts';

export const convertRangePayload = convertPayload.omit({ page_selection: true }).extend({
  /** Ascending ranges, both ends included. */
  pages: z.array(z.tuple([z.int(), z.int()])),
});

export type ConvertRangePayload = z.output<typeof convertRangePayload>;

/** Converts some pages of an original whose inspection has taken place. */
export const convertRange = {
  type: 'convert_range',
  payload: convertRangePayload,
  resources: conversionShape(ORDINARY_MB),
  internal: true,
} satisfies ConversionTask;

/** The payload of a conversion, limited to these pages, which ascend. */
export function rangeOf(payload: Record<string, unknown>, pages: number[]): ConvertRangePayload {
  return { ...convertRangePayload.omit({ pages: true }).parse(payload), spent_seconds: 0, pages: toRanges(pages) };
}
