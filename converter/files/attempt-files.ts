import { stat } from 'node:fs/promises';
import type { PageOutcome, PageReport, StoredFile } from '../../conversion/record-pages.ts';
import type { LocalCopy, Store } from '../../store/store.ts';
import { checkedPage, isPageSize, maxPageBytes } from './checked-page.ts';
import { FILE_NAME, pageName } from './output-names.ts';
import type { PrivateFolder } from './private-folder.ts';
import { RejectedOutput } from './rejected-output.ts';

/** The size limit of the file that a task makes: a multiple of its inputs, or a fixed size if that is larger. */
const MAX_FILE = { ratio: 4, bytes: 256 * 2 ** 20 };

/**
 * Copies the files of an attempt from the store into private folders, and its results back. Processes in a private folder
 * have no other access to the store. The owner calls `close()`.
 */
export class AttemptFiles {
  readonly #store: Store;
  /** The folder for local copies of files from a remote store. */
  readonly #workFolder: string;
  readonly #copies: LocalCopy[] = [];
  #bytesRead = 0;

  constructor(store: Store, workFolder: string) {
    this.#store = store;
    this.#workFolder = workFolder;
  }

  /** Copies a stored file into the folder and returns the path of the copy. */
  async copyIn(folder: PrivateFolder, storePath: string): Promise<string> {
    const copy = await this.#store.local(storePath, this.#workFolder);
    this.#copies.push(copy);
    this.#bytesRead += (await stat(copy.file)).size;
    return folder.copyIn(copy.file);
  }

  /** Checks and stores a page that was reported. Rejects with RejectedOutput. */
  async publishPage(
    folder: PrivateFolder,
    report: PageReport & { status: 'completed' },
    storePath: string,
  ): Promise<PageOutcome & { status: 'completed' }> {
    if (!isPageSize(report)) throw new RejectedOutput('a page has no valid size');
    const name = pageName(report.page);
    const stored = await folder.read(name, maxPageBytes(report), ({ content }) =>
      this.#publish(checkedPage(content, report), storePath),
    );
    await folder.drop(name);
    return { ...report, ...stored };
  }

  /** Stores the file that the task has made. Rejects with RejectedOutput. */
  async publishFile(folder: PrivateFolder, storePath: string): Promise<StoredFile> {
    const maxBytes = Math.max(MAX_FILE.bytes, MAX_FILE.ratio * this.#bytesRead);
    return folder.read(FILE_NAME, maxBytes, ({ content }) => this.#publish(content, storePath));
  }

  /** Never rejects. */
  async close(): Promise<void> {
    await Promise.all(this.#copies.splice(0).map((copy) => copy.release()));
  }

  async #publish(content: AsyncIterable<Buffer>, storePath: string): Promise<StoredFile> {
    const { path, bytes, sha256 } = await this.#store.receive(content, () => storePath);
    return { path, bytes, sha256 };
  }
}
