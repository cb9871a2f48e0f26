import { stat } from 'node:fs/promises';
import type { PageReport, StoredFile } from '../../conversion/record-pages.ts';
import type { LocalCopy, Store } from '../../store/store.ts';
import { checkedPage, isPageSize, maxPageBytes } from './checked-page.ts';
import { FILE_NAME, pageName } from './output-names.ts';
import type { PrivateFolder } from './private-folder.ts';
import { RejectedOutput } from './rejected-output.ts';

/** The most that the file of a task may have: so many bytes for each that it reads, or a fixed number if that is more. */
const MAX_FILE = { ratio: 4, bytes: 256 * 2 ** 20 };

export type AttemptFiles = ReturnType<typeof createAttemptFiles>;

/**
 * The way of an attempt's files from the store into private folders and back: the only one, since what runs in a private
 * folder has no path to the store. `work` is a folder for copies; the caller ends with `close`.
 */
export function createAttemptFiles(store: Store, work: string) {
  const copies: LocalCopy[] = [];
  let bytesRead = 0;

  async function publish(content: AsyncIterable<Buffer>, storePath: string): Promise<StoredFile> {
    const { path, bytes, sha256 } = await store.receive(content, () => storePath);
    return { path, bytes, sha256 };
  }

  return {
    /** Gives the path of a new copy of a stored file, in the folder. */
    async copyIn(folder: PrivateFolder, storePath: string): Promise<string> {
      const copy = await store.local(storePath, work);
      copies.push(copy);
      bytesRead += (await stat(copy.file)).size;
      return folder.copyIn(copy.file);
    },
    /** Checks and stores a page that was reported. Rejects with RejectedOutput. */
    async publishPage(folder: PrivateFolder, report: PageReport & { status: 'completed' }, storePath: string) {
      if (!isPageSize(report)) throw new RejectedOutput('a page has no valid size');
      const name = pageName(report.page);
      const stored = await folder.read(name, maxPageBytes(report), ({ content }) =>
        publish(checkedPage(content, report), storePath),
      );
      await folder.drop(name);
      return { ...report, ...stored };
    },
    /** Stores the file that the task has made. Rejects with RejectedOutput. */
    async publishFile(folder: PrivateFolder, storePath: string): Promise<StoredFile> {
      const maxBytes = Math.max(MAX_FILE.bytes, MAX_FILE.ratio * bytesRead);
      return folder.read(FILE_NAME, maxBytes, ({ content }) => publish(content, storePath));
    },
    /** Never rejects. */
    async close(): Promise<void> {
      await Promise.all(copies.splice(0).map((copy) => copy.release()));
    },
  };
}
