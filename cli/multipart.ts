import { randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { basename } from 'node:path';
import { messageOf } from './errors.ts';

/** A path, which is streamed from disk, or bytes in memory; a `File` has a name. */
export type Source = string | Blob;

/**
 * A multipart body of text fields, and of files in the field `file`. It replaces FormData, with which fetch throws an
 * uncatchable error if the service refuses the request before it has read the body.
 */
export class Multipart {
  readonly contentType: string;
  /** The error of a file that could not be read, because fetch reports only that it failed. */
  failure: Error | undefined;
  readonly #boundary = `sheetmill-${randomUUID()}`;
  readonly #fields: object;
  readonly #files: Source[];

  constructor(fields: object, files: Source[]) {
    this.contentType = `multipart/form-data; boundary=${this.#boundary}`;
    this.#fields = fields;
    this.#files = files;
  }

  /** The body; each call reads it from the start. */
  async *read(): AsyncGenerator<Uint8Array> {
    for (const [name, value] of Object.entries(this.#fields)) {
      if (value !== undefined) yield Buffer.from(`${this.#headOf(`name="${name}"`)}${value}\r\n`);
    }
    for (const file of this.#files) {
      yield Buffer.from(this.#headOf(`name="file"; filename="${escapeName(nameOf(file))}"`));
      try {
        yield* typeof file === 'string' ? createReadStream(file) : file.stream();
      } catch (cause) {
        this.failure = new Error(`${nameOf(file)} cannot be read: ${messageOf(cause)}`, { cause });
        throw cause;
      }
      yield Buffer.from('\r\n');
    }
    yield Buffer.from(`--${this.#boundary}--\r\n`);
  }

  #headOf(disposition: string): string {
    return `--${this.#boundary}\r\nContent-Disposition: form-data; ${disposition}\r\n\r\n`;
  }
}

function nameOf(file: Source): string {
  if (typeof file === 'string') return basename(file);
  return file instanceof File ? file.name : 'blob';
}

/** Escapes a file name as browsers do. */
function escapeName(name: string): string {
  return name.replaceAll('\r', '%0D').replaceAll('\n', '%0A').replaceAll('"', '%22');
}
