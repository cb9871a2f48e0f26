import { z } from 'zod';
import { BASELINE_MB, MAX_CLASS_MB, memoryClass, ORDINARY_MB, type Shape } from '../../jobs/shape.ts';
import { conversionShape } from '../conversion-shape.ts';
import { type ConversionTask, PDF_ENGINES } from '../conversion-task.ts';

export const convertPayload = z.object({
  upload_id: z.string(),
  original: z.int(),
  path: z.string(),
  media_type: z.enum(['application/pdf', 'image/png', 'image/jpeg']),
  dpi: z.int(),
  /** The selection as the client wrote it; null means every page. */
  page_selection: z.string().nullable(),
  /** Processor time that earlier attempts spent on an unfinished page before they ran out of memory. */
  spent_seconds: z.number().min(0).default(0),
  /** The first engine for PDF pages; null means the default of the converter. Jobs of older versions lack it. */
  engine: z.enum(PDF_ENGINES).nullable().default(null),
});

export type ConvertPayload = z.output<typeof convertPayload>;

/** PDFium with an ordinary page. */
const DOCUMENT_MB = 120;
/** An inspection holds the PDF twice. */
const COPIES = 2;

/** The reservation of an inspection, which reads the header of an image or a whole PDF. */
export function inspectionShape(mediaType: ConvertPayload['media_type'], bytes: number): Shape {
  if (mediaType !== 'application/pdf') return convert.resources;
  const needed = BASELINE_MB + DOCUMENT_MB + (COPIES * bytes) / 2 ** 20;
  return conversionShape(memoryClass(Math.min(needed, MAX_CLASS_MB)));
}

/** Inspects an original; converts a small one at once, and splits a large one into ranges. */
export const convert = {
  type: 'convert',
  payload: convertPayload,
  resources: conversionShape(ORDINARY_MB),
  internal: true,
} satisfies ConversionTask;
