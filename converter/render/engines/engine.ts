import { AppError } from '../../../runtime/errors.ts';

/** The size of a page in points, as it is shown: turned by its rotation, multiplied by its UserUnit. */
export interface PageBox {
  width: number;
  height: number;
}

/**
 * A page as an engine drew it: opaque RGBA pixels, row by row from the top. The pixels are valid until the next call of
 * the same document.
 */
export interface DrawnPage {
  data: Uint8Array;
  width: number;
  height: number;
  channels: 4;
  /** The parts that the engine could not draw; empty when the page is complete. */
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

/** True for an error of the file system, which is not about the content of a file. */
export function isFileSystemError(cause: unknown): boolean {
  return typeof cause === 'object' && cause !== null && 'syscall' in cause;
}

/** True for an error about the content of a file. A wrong password, memory or a disk are the same for both engines. */
export function mayOtherEngineSucceed(error: unknown): boolean {
  return error instanceof AppError && (error.code === 'corrupt_file' || error.code === 'unsupported_feature');
}

export function outOfMemory(cause: unknown): AppError {
  return new AppError('out_of_memory', 'the PDF needs more memory than was reserved', { retryable: true, cause });
}

/** Returns a function that starts each work when the one before it has ended: no engine draws two pages at a time. */
export function oneAfterTheOther() {
  let last: Promise<unknown> = Promise.resolve();
  return <T>(work: () => Promise<T>): Promise<T> => {
    const result = last.then(work, work);
    last = result;
    return result;
  };
}
