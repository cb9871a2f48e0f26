import { AppError } from '../../../runtime/errors.ts';

/** The size of a page in points, as it is shown: turned by its rotation, multiplied by its UserUnit. */
export interface PageBox {
  width: number;
  height: number;
}

/** Opaque RGBA pixels, row by row from the top. */
interface RawImage {
  data: Uint8Array;
  width: number;
  height: number;
  channels: 4;
}

/**
 * A page as an engine drew it, and what it could not draw: empty when the page is complete. The pixels hold until the
 * next call of the same document.
 */
export interface DrawnPage extends RawImage {
  complaints: string[];
}

/** The complaint about a white page of a document that may show something there. */
export const NOTHING_DRAWN = 'nothing was drawn';

/** An open PDF; pages count from 1. Calls may overlap, but run one after the other. */
export interface PdfDocument {
  pageCount: number;
  /** Throws AppError `corrupt_file` for a page that cannot be read. */
  pageBox(page: number): Promise<PageBox>;
  /** Draws a page on white at `scale` pixels per point. Throws AppError `corrupt_file` for a page that cannot be drawn. */
  render(page: number, scale: number): Promise<DrawnPage>;
  close(): Promise<void>;
}

/** A file that cannot be read from disk says nothing about what is in it. */
export function isFileSystemError(cause: unknown): boolean {
  return typeof cause === 'object' && cause !== null && 'syscall' in cause;
}

export function outOfMemory(cause: unknown): AppError {
  return new AppError('out_of_memory', 'the PDF needs more memory than was reserved', { retryable: true, cause });
}

/** Makes calls wait for those before them: no renderer works at two pages at a time. */
export function oneAfterTheOther() {
  let last: Promise<unknown> = Promise.resolve();
  return <T>(work: () => Promise<T>): Promise<T> => {
    const result = last.then(work, work);
    last = result;
    return result;
  };
}
