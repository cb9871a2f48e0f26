import type { Client, UploadFields, UploadStatus } from './client.ts';
import type { Failure } from './errors.ts';

interface PageResult {
  page: number;
  file: string | null;
  width: number | null;
  height: number | null;
  dpi: number | null;
  error: Failure | null;
}

const NOT_CONVERTED: Failure = { code: 'not_converted', message: 'was not converted' };
/** A file of the command line and its result. `--json` shows the public fields. */
export class FileConversion {
  readonly file: string;
  /** The ID of its upload; null before it is uploaded. */
  id: string | null = null;
  readonly pages: PageResult[] = [];
  error: Failure | null = NOT_CONVERTED;
  /** The path of its pages without number and extension. */
  readonly #prefix: string;

  constructor(file: string, prefix: string) {
    this.file = file;
    this.#prefix = prefix;
  }

  /** False until it was converted, failed or was interrupted. */
  get hasEnded(): boolean {
    return this.error !== NOT_CONVERTED;
  }

  /** Uploads the file, waits for its pages and saves them. */
  async run(client: Client, fields: UploadFields, onStatus?: (status: UploadStatus) => void): Promise<void> {
    const { id } = await client.uploads.create(this.file, fields);
    this.id = id;
    const upload = await client.uploads.done(id, onStatus && { onStatus });
    for await (const { original, page, width, height, dpi, error } of client.uploads.pages(id)) {
      const file = error === null ? `${this.#prefix}-${String(page).padStart(4, '0')}.png` : null;
      if (file !== null) await client.uploads.page(id, original, page).save(file);
      this.pages.push({ page, file, width, height, dpi, error });
    }
    const { status, error } = upload;
    this.error = status === 'completed' ? null : (error ?? { code: status, message: `the upload is ${status}` });
  }

  fail(error: Failure): void {
    this.error = error;
  }
}
