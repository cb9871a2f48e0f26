import { randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { basename } from 'node:path';

/** A path, which is streamed from disk, or bytes in memory; a `File` brings its name. */
export type Source = string | Blob;

export interface Multipart {
  contentType: string;
  /** The body, anew each time. */
  read(): AsyncGenerator<Uint8Array>;
  /** Why a file could not be read: fetch says only that it failed. */
  failure?: Error;
}

/**
 * A multipart body of text fields, and of files in the field `file`. Not a FormData: fetch throws what nobody can catch when
 * such a body is refused before all of it was sent.
 */
export function createMultipart(fields: object, files: Source[]): Multipart {
  const boundary = `sheetmill-${randomUUID()}`;
  const headOf = (disposition: string) =>
    Buffer.from(`--${boundary}\r\nContent-Disposition: form-data; ${disposition}\r\n\r\n`);
  const multipart: Multipart = {
    contentType: `multipart/form-data; boundary=${boundary}`,
    async *read() {
      for (const [name, value] of Object.entries(fields)) {
        if (value === undefined) continue;
        yield headOf(`name="${name}"`);
        yield Buffer.from(`${value}\r\n`);
      }
      for (const file of files) {
        yield headOf(`name="file"; filename="${escaped(nameOf(file))}"`);
        try {
          yield* typeof file === 'string' ? createReadStream(file) : file.stream();
        } catch (cause) {
          multipart.failure = new Error(`${nameOf(file)} cannot be read: ${(cause as Error).message}`, { cause });
          throw cause;
        }
        yield Buffer.from('\r\n');
      }
      yield Buffer.from(`--${boundary}--\r\n`);
    },
  };
  return multipart;
}

function nameOf(file: Source): string {
  if (typeof file === 'string') return basename(file);
  return file instanceof File ? file.name : 'blob';
}

/** As browsers write names. */
function escaped(name: string): string {
  return name.replaceAll('\r', '%0D').replaceAll('\n', '%0A').replaceAll('"', '%22');
}
