import { z } from 'zod';
import { BASELINE_MB, conversionShape, MAX_CLASS_MB, memoryClass, ORDINARY_MB, type Shape } from '../../jobs/shape.ts';
import { type ConversionContext, defineTask, PDF_ENGINES } from '../../jobs/task.ts';

export const convertPayload = z.object({
  upload_id: z.string(),
  original: z.int(),
  path: z.string(),
  media_type: z.enum(['application/pdf', 'image/png', 'image/jpeg']),
  dpi: z.int(),
  /** The selection as the client wrote it; null means every page. */
  page_selection: z.string().nullable(),
  /** Processor time that earlier attempts, which had too little memory, spent on the page that they did not finish. */
  spent_seconds: z.number().min(0).default(0),
  /** Draws PDF pages first; null leaves that to the converter. Jobs of older versions do not have it. */
  engine: z.enum(PDF_ENGINES).nullable().default(null),
});

export type ConvertPayload = z.output<typeof convertPayload>;

/** Beyond the baseline: PDFium with an ordinary page, and how often a PDF is held while it is inspected. */
const DOCUMENT_MB = 120;
const COPIES = 2;

/** What inspecting an original reserves. Images are read by their header, PDFs as a whole. */
export function inspectionShape(mediaType: ConvertPayload['media_type'], bytes: number): Shape {
  if (mediaType !== 'application/pdf') return convert.resources;
  const needed = BASELINE_MB + DOCUMENT_MB + (COPIES * bytes) / 2 ** 20;
  return conversionShape(memoryClass(Math.min(needed, MAX_CLASS_MB)));
}

/** Inspects an original; converts it there and then if it is small, or else splits it into ranges. */
export const convert = defineTask({
  type: 'convert',
  payload: convertPayload,
  resources: conversionShape(ORDINARY_MB),
  internal: true,
  run: async (context) =>
    (await import('../../converter/render/convert.ts')).convertOriginal(context as ConversionContext<ConvertPayload>),
});
