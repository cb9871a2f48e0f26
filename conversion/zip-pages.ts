import { PassThrough, type Readable } from 'node:stream';
import { type ReadStreamOptions, ZipFile } from 'yazl';

export interface PageFile {
  original: number;
  page: number;
  open(): Promise<Readable>;
}

/** A name such as `1-0001.png`: original, then page. */
function nameOf({ original, page }: Omit<PageFile, 'open'>): string {
  return `${original}-${String(page).padStart(4, '0')}.png`;
}

/** PNGs do not shrink. */
const STORED: Partial<ReadStreamOptions> = { compress: false };

/** Above this many pages the directory is always Zip64, because yazl miscalculates its size above 64 KB. */
const MAX_SMALL = 500;
const endOf = (pages: unknown[]) => ({ forceZip64Format: pages.length > MAX_SMALL, comment: '' });

/**
 * The bytes of a zip of pages, which the same pages with the same `mtime` reproduce. Opens one file at a time, and leaves
 * none open. `onPage` gets the number of completed pages.
 */
export async function* zipPages(
  pages: PageFile[],
  { mtime = new Date(), onPage = () => {} }: { mtime?: Date; onPage?: (done: number) => void } = {},
): AsyncGenerator<Buffer, void> {
  const zip = new ZipFile();
  const output = zip.outputStream;
  if (!(output instanceof PassThrough)) throw new Error('yazl has another kind of output stream');
  let reading: Readable | undefined;
  for (const [index, page] of pages.entries()) {
    zip.addReadStreamLazy(nameOf(page), { ...STORED, mtime }, (use) => {
      // yazl ignores that its output is destroyed, and would open the next file.
      if (output.destroyed) return;
      const fail = (error: Error) => void output.destroy(error);
      page.open().then((opened) => {
        reading = opened.on('error', fail).on('end', () => onPage(index + 1));
        if (output.destroyed) reading.destroy();
        else use(null, reading);
      }, fail);
    });
  }
  zip.end(endOf(pages));
  try {
    yield* output;
  } finally {
    reading?.destroy();
  }
}

/** The number of bytes that `zipPages` returns for pages of these sizes. */
export function zipSize(pages: (Omit<PageFile, 'open'> & { bytes: number })[]): number {
  const zip = new ZipFile();
  for (const page of pages) zip.addReadStreamLazy(nameOf(page), { ...STORED, size: page.bytes }, () => {});
  let size = 0;
  // The types of yazl omit the argument.
  zip.end(endOf(pages), (...[bytes]: unknown[]) => {
    size = Number(bytes);
  });
  return size;
}
