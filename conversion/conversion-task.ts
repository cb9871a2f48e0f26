import type { PageRange } from '../db/schema.ts';
import type { Shape } from '../jobs/shape.ts';
import type { PublicError } from '../runtime/errors.ts';
import type { Inspection, PageReport } from './record-pages.ts';
import type { UploadTaskContext, UploadTaskDefinition } from './upload-task.ts';

/** The renderers of PDF pages. */
export const PDF_ENGINES = ['pdfium', 'pdf-to-img'] as const;
export type PdfEngine = (typeof PDF_ENGINES)[number];
/** `sharp` decodes images. */
export const ENGINES = [...PDF_ENGINES, 'sharp'] as const;
export type Engine = (typeof ENGINES)[number];

/** An operation of an engine that may crash or never end: it draws a page, or opens the file (`page` null). */
export interface Step {
  page: number | null;
  engine: Engine;
  /** No other engine can replace it. */
  last: boolean;
}

/** Pages of the original that a separate child converts, and the memory class that the child reserves. */
export interface Part {
  pages: PageRange[];
  memoryMb: number;
}

/** The context of a task that converts an original. */
export interface ConversionContext<Payload> extends UploadTaskContext<Payload> {
  /** The local path of the original. */
  input: string;
  password: string | null;
  /** Pages that have an outcome from an earlier attempt or sandbox. */
  settledPages: readonly number[];
  /** Steps that this attempt did not survive, which are not repeated with the same engine. */
  failedSteps: (Step & { error: PublicError })[];
  reservation: Shape;
  /** `firstEngine` draws PDF pages, and the other engine where the first fails. `stepSeconds` is the timeout of a step. */
  limits: { maxPages: number; maxPixels: number; stepSeconds: number; firstEngine: PdfEngine };
  /** Must be called before each step, so that a step that kills the sandbox is known. */
  step(step: Step): void;
  inspected(found: Inspection): void;
  /** The local path at which the PNG of a page is written before `page` reports it. */
  pageOutput(page: number): string;
  page(report: PageReport): void;
  /** The job waits for a child for each part when `run` returns, and ends with the last of them. */
  split(parts: Part[]): void;
}

/** A job type that converts an original. Its code is in `converter/render/conversions.ts`. */
export interface ConversionTask extends UploadTaskDefinition {
  type: 'convert' | 'convert_range';
  internal: true;
  trusted?: false;
}
