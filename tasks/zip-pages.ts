import { createReadStream, type ReadStream } from 'node:fs';
import type { PassThrough } from 'node:stream';
import { ZipFile } from 'yazl';

export interface PageFile {
  original: number;
  page: number;
  /** A local file. */
  path: string;
}

/**
 * The bytes of a zip of pages, under names like `1-0001.png`: original, then page. Opens one file at a time, the first
 * when it is read from, and leaves none open however it ends. `onPage` hears how many pages are through.
 */
export async function* zipPages(
  pages: PageFile[],
  onPage: (done: number) => void = () => {},
): AsyncGenerator<Buffer, void> {
  const zip = new ZipFile();
  const output = zip.outputStream as PassThrough;
  let reading: ReadStream | undefined;
  for (const [index, { original, page, path }] of pages.entries()) {
    // Stored, as PNGs do not shrink.
    zip.addReadStreamLazy(`${original}-${String(page).padStart(4, '0')}.png`, { compress: false }, (use) => {
      // yazl does not see that its output is gone, and would open the next file.
      if (output.destroyed) return;
      reading = createReadStream(path);
      reading.on('error', (error) => output.destroy(error));
      reading.on('end', () => onPage(index + 1));
      use(null, reading);
    });
  }
  zip.end();
  try {
    yield* output;
  } finally {
    reading?.destroy();
  }
}
