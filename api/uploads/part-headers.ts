import { isUtf8 } from 'node:buffer';
import { Transform, type TransformCallback } from 'node:stream';
import { AppError } from '../../runtime/errors.ts';
import { invalid } from '../http/problem.ts';

const CRLF = Buffer.from('\r\n');
const END_OF_HEAD = Buffer.from('\r\n\r\n');
const MAX_HEAD_BYTES = 16 * 1024;
/** Clients send nothing before the first part, or a remark. */
const MAX_PREAMBLE_BYTES = 64 * 1024;
/** busboy skips a part without a Content-Disposition. */
const SKIPPED_HEAD = Buffer.from('Content-Type: text/plain\r\n\r\n');

/**
 * A parameter of a header: its name, and its value with or without quotes. Takes linear time: a match that fails looks no
 * further than the next semicolon, and at most one quote of a text has no end.
 */
const PARAMETER = /;\s*([^\s;=]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|"?([^;]*))/gs;

/** The facts in the head of a part. */
interface PartHead {
  name: string | undefined;
  /** Undefined when the head has no filename; '' when it has an empty one. */
  filename: string | undefined;
}

interface PartHeadsOptions {
  boundary: string;
  fileField: string;
  maxParts: number;
  /** Of the contents of all files. */
  maxFileBytes: number;
  /** Of everything else: boundaries, heads, text fields, and what belongs to no part. */
  maxOtherBytes: number;
}

/**
 * Rewrites the head of each part of a multipart body, so that busboy treats the part as the client means it:
 * - A part named `fileField` is a file, also without a filename. busboy decides by filename and Content-Type.
 * - A part with another name and no filename is a text field, whatever its Content-Type is.
 * - A head that is not UTF-8 is windows-1252, which browsers send from pages in Latin-1.
 * - A file part with an empty filename and no content is skipped: browsers send it for a file input that nobody filled.
 *
 * busboy gets the index of a file in `filenames` as its filename. The bodies of parts pass unchanged.
 *
 * A body that exceeds a bound fails as soon as it does: busboy and multer would read it to its end, which may never come.
 */
export class PartHeads extends Transform {
  /** The filename of each file part, in order; null without one. */
  readonly filenames: (string | null)[] = [];
  readonly #fileField: string;
  /** Of the parts that may still be rewritten. busboy reads no more than these, so the rest passes unchanged. */
  #partsLeft: number;
  /** The bytes that end a body: before another part, and before any boundary. */
  readonly #delimiter: Buffer;
  readonly #endOfBody: Buffer;
  #isInHead = false;
  #isInFile = false;
  #preambleBytesLeft = MAX_PREAMBLE_BYTES;
  #otherBytesLeft: number;
  #fileBytesLeft: number;
  readonly #options: PartHeadsOptions;
  /** Bytes that cannot be passed on before more arrive. A body that starts with a boundary lacks the line break. */
  #held: Buffer = CRLF;

  constructor(options: PartHeadsOptions) {
    super();
    this.#options = options;
    this.#fileBytesLeft = options.maxFileBytes;
    this.#otherBytesLeft = options.maxOtherBytes;
    this.#fileField = options.fileField;
    this.#partsLeft = options.maxParts;
    this.#endOfBody = Buffer.from(`\r\n--${options.boundary}`, 'latin1');
    this.#delimiter = Buffer.concat([this.#endOfBody, CRLF]);
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    try {
      this.#take(chunk);
      done();
    } catch (error) {
      done(error instanceof Error ? error : new Error(String(error)));
    }
  }

  #take(chunk: Buffer): void {
    let rest = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    let taken: number;
    do {
      taken = this.#isInHead ? this.#takeHead(rest) : this.#takeBody(rest);
      rest = rest.subarray(taken);
    } while (taken > 0 && rest.length > 0);
    this.#held = rest;
  }

  override _flush(done: TransformCallback): void {
    done(null, this.#held);
  }

  /** Passes on the body up to the next head, and keeps what may be the start of a delimiter. Gives how much it took. */
  #takeBody(bytes: Buffer): number {
    const at = this.#partsLeft > 0 ? bytes.indexOf(this.#delimiter) : -1;
    const end = at >= 0 ? at + this.#delimiter.length : this.#startOfDelimiter(bytes);
    this.#countBody(at >= 0 ? at : end);
    this.#isInHead = at >= 0;
    if (end > 0) this.push(bytes.subarray(0, end));
    return end;
  }

  /** Counts bytes of a preamble, of a file, or of anything else. */
  #countBody(bytes: number): void {
    if (this.#isInFile) {
      this.#fileBytesLeft -= bytes;
      if (this.#fileBytesLeft < 0) throw tooLarge(this.#options.maxFileBytes);
      return;
    }
    this.#countOther(bytes);
    if (this.#partsLeft < this.#options.maxParts) return;
    this.#preambleBytesLeft -= bytes;
    if (this.#preambleBytesLeft < 0) throw invalid(`no part begins within ${MAX_PREAMBLE_BYTES / 1024} KB`);
  }

  #countOther(bytes: number): void {
    this.#otherBytesLeft -= bytes;
    if (this.#otherBytesLeft >= 0) return;
    throw invalid(`the body has more than ${this.#options.maxOtherBytes / 1024} KB that belong to no file`);
  }

  /** Where a delimiter starts of which only the first bytes are there, or the end. */
  #startOfDelimiter(bytes: Buffer): number {
    let at = bytes.indexOf('\r', Math.max(0, bytes.length - this.#delimiter.length + 1));
    while (at >= 0 && !this.#delimiter.subarray(0, bytes.length - at).equals(bytes.subarray(at))) {
      at = bytes.indexOf('\r', at + 1);
    }
    return at < 0 ? bytes.length : at;
  }

  /** Passes on a head once it is complete. Gives how much it took. */
  #takeHead(bytes: Buffer): number {
    const at = bytes.indexOf(END_OF_HEAD);
    const end = at + END_OF_HEAD.length;
    if ((at < 0 ? bytes.length : at) > MAX_HEAD_BYTES) {
      throw invalid(`the head of a part has more than ${MAX_HEAD_BYTES / 1024} KB`);
    }
    if (at < 0) return 0;
    this.#isInFile = false;
    const head = readHead(decodeText(bytes.subarray(0, at)));
    if (head === undefined) return this.#passHead(bytes.subarray(0, end), end);
    if (head.filename === '') {
      const next = bytes.subarray(end, end + this.#endOfBody.length);
      if (next.length < this.#endOfBody.length && this.#endOfBody.subarray(0, next.length).equals(next)) return 0;
      if (next.equals(this.#endOfBody)) return this.#passHead(SKIPPED_HEAD, end);
    }
    return this.#passHead(this.#writeHead(head), end);
  }

  #passHead(head: Buffer, taken: number): number {
    this.#countOther(taken + this.#delimiter.length);
    this.push(head);
    this.#isInHead = false;
    this.#partsLeft--;
    return taken;
  }

  #writeHead({ name, filename }: PartHead): Buffer {
    this.#isInFile = name === this.#fileField || filename !== undefined;
    const parameters = name === undefined ? [] : [`name="${name.replace(/["\\]/g, '\\$&')}"`];
    if (this.#isInFile) {
      parameters.push(`filename="${this.filenames.length}"`);
      this.filenames.push(filename || null);
    }
    return Buffer.from(`Content-Disposition: ${['form-data', ...parameters].join('; ')}\r\n\r\n`);
  }
}

/** The boundary that a Content-Type names. Clients do not always quote one that has to be quoted. */
export function boundaryOf(contentType: string): string | undefined {
  for (const [, key, quoted, bare = ''] of contentType.matchAll(PARAMETER)) {
    if (key?.toLowerCase() === 'boundary') return (quoted?.replace(/\\(["\\])/g, '$1') ?? bare.trim()) || undefined;
  }
  return undefined;
}

/** Text whose encoding nobody declared: UTF-8, or else windows-1252, in which every byte is a character. */
export function decodeText(bytes: Uint8Array): string {
  return new TextDecoder(isUtf8(bytes) ? 'utf-8' : 'windows-1252', { ignoreBOM: true }).decode(bytes);
}

/** Undefined for a head that is not one of form data. */
function readHead(head: string): PartHead | undefined {
  const lines = head.replace(/\r\n[ \t]+/g, ' ').split('\r\n');
  const line = lines.find((line) => /^content-disposition[ \t]*:/i.test(line)) ?? '';
  const [, written] = /^[^:]*:\s*form-data\s*(;.*)?$/is.exec(line) ?? [];
  if (written === undefined) return undefined;
  const parameters = new Map<string, string>();
  for (const [, key = '', quoted, bare = ''] of written.matchAll(PARAMETER)) {
    const value = quoted === undefined ? bare.trim() : quoted.replace(/\\(["\\])/g, '$1');
    if (!parameters.has(key.toLowerCase())) parameters.set(key.toLowerCase(), value);
  }
  const filename = parameters.get('filename');
  const extended = parameters.get('filename*');
  return {
    name: parameters.get('name'),
    filename: (extended && decodeExtended(extended)) || (filename && unescapeName(filename)) || filename,
  };
}

/** Browsers escape these three characters, and no others. */
function unescapeName(filename: string): string {
  return filename.replace(/%0A|%0D|%22/gi, decodeURIComponent);
}

/** A value as RFC 5987 writes it, such as `UTF-8''%C3%BC.pdf`. A wrong charset does not make it unreadable. */
function decodeExtended(value: string): string {
  const [, charset = 'utf-8', encoded = value] = /^([^']*)'[^']*'(.*)$/.exec(value) ?? [];
  const bytes = Buffer.from(
    Buffer.from(encoded)
      .toString('latin1')
      .replace(/%([0-9a-f]{2})/gi, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 16))),
    'latin1',
  );
  try {
    return new TextDecoder(charset, { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return decodeText(bytes);
  }
}

/** The files of an upload have more bytes than they may. */
export function tooLarge(maxBytes: number): AppError {
  return new AppError('file_too_large', `an upload may have ${maxBytes / 2 ** 20} MB in all`, { status: 413 });
}
