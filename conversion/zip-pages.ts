import type { PassThrough, Readable } from 'node:stream';
import { type ReadStreamOptions, ZipFile } from 'yazl';

export interface PageFile {
  original: number;
  page: number;
  open(): Promise<Readable>;
}

/** Under names like `1-0001.png`: original, then page. */
function nameOf({ original, page }: Omit<PageFile, 'open'>): string {
  return `${original}-${String(page).padStart(4, '0')}.png`;
}

/** Stored, as PNGs do not shrink. */
const STORED: Partial<ReadStreamOptions> = { compress: false };

/** Above this many pages the directory at the end is always the large one: yazl foretells its size wrongly from 64 KB on. */
const MAX_SMALL = 500;
const endOf = (pages: unknown[]) => ({ forceZip64Format: pages.length > MAX_SMALL, comment: '' });

/**
 * The bytes of a zip of pages. Opens one file at a time, the first when it is read from, and leaves none open however it
 * ends. The same pages with the same `mtime` give the same bytes. `onPage` hears how many pages are through.
 */
export async function* zipPages(
  pages: PageFile[],
  { mtime = new Date(), onPage = () => {} }: { mtime?: Date; onPage?: (done: number) => void } = {},
): AsyncGenerator<Buffer, void> {
  const zip = new ZipFile();
  const output = zip.outputStream as PassThrough;
  let reading: Readable | undefined;
  for (const [index, page] of pages.entries()) {
    zip.addReadStreamLazy(nameOf(page), { ...STORED, mtime }, (use) => {
      // yazl does not see that its output is gone, and would open the next file.
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

/** How many bytes `zipPages` gives for pages of these sizes. */
export function zipSize(pages: (Omit<PageFile, 'open'> & { bytes: number })[]): number {
  const zip = new ZipFile();
  for (const page of pages) zip.addReadStreamLazy(nameOf(page), { ...STORED, size: page.bytes }, () => {});
  let size = 0;
  const told = (bytes: number) => {
    size = bytes;
  };
  // Its types forget what it tells.
  zip.end(endOf(pages), told as () => void);
  return size;
}
