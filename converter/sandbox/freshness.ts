import type { Step } from '../../conversion/conversion-task.ts';
import { archive } from '../../conversion/tasks/archive.ts';
import { checksum } from '../../conversion/tasks/checksum.ts';
import { convert } from '../../conversion/tasks/convert.ts';
import { convertRange } from '../../conversion/tasks/convert-range.ts';
import type { TaskRequest } from '../run-task.ts';

/**
 * Work in which native code reads the bytes of an upload: such code may have been taken over by them, and stays in the
 * process after the task. PDFium runs as WebAssembly, in a new instance for each document, so PDFs leave nothing behind.
 */

/** Known before the task runs. Tasks of operators may run anything. */
export function isNative({ type, payload, limits }: TaskRequest): boolean {
  if (type === archive.type || type === checksum.type) return false;
  if (type !== convert.type && type !== convertRange.type) return true;
  return payload.media_type !== 'application/pdf' || (payload.engine ?? limits.firstEngine) !== 'pdfium';
}

/** Known when the first engine did not draw a page. */
export function isNativeStep({ engine }: Step): boolean {
  return engine !== 'pdfium';
}
