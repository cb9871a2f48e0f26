import { archive } from '../../conversion/tasks/archive.ts';
import { checksum } from '../../conversion/tasks/checksum.ts';
import { convert } from '../../conversion/tasks/convert.ts';
import { convertRange } from '../../conversion/tasks/convert-range.ts';
import type { Step } from '../../jobs/task.ts';
import type { TaskRequest } from '../run-task.ts';

/**
 * Decides after which work a sandbox may only be reused for the same owner. Native code that reads an upload may be
 * compromised, and stays in the process after the task. PDFium runs as WebAssembly, in a new instance for each document,
 * so nothing of a PDF stays.
 */

/** Native code will read the upload. Tasks of operators may run any code. */
export function runsNativeCode({ type, payload, limits }: TaskRequest): boolean {
  if (type === archive.type || type === checksum.type) return false;
  if (type !== convert.type && type !== convertRange.type) return true;
  return payload.media_type !== 'application/pdf' || (payload.engine ?? limits.firstEngine) !== 'pdfium';
}

/** The step runs native code, because PDFium did not draw the page. */
export function isNativeStep({ engine }: Step): boolean {
  return engine !== 'pdfium';
}
