import { isUtf8 } from 'node:buffer';
import { Transform, type TransformCallback } from 'node:stream';
import { AppError } from '../../runtime/errors.ts';
import { invalid } from '../http/problem.ts';

const CRLF = Buffer.from('\r\n');
const END_OF_HEAD = Buffer.from('\r\n\r\n');
const MAX_HEAD_BYTES = 16 * 1024;
/** Clients send nothing or a short comment before the first part. */
const MAX_PREAMBLE_BYTES = 64 * 1024;
/** busboy skips a part without a Content-Disposition. */
const SKIPPED_HEAD = Buffer.from('Content-Type: text/plain\r\n\r\n');

/**
 * A parameter of a header: its name, and its value with or without quotes. Takes linear time: a failed match reads only to the
 * next semicolon, and a text has at most one quote without an end.
 */
const PARAMETER = /;\s*([^\s;=]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|"?([^;]*))/gs;

/** The parsed head of a part. */
interface PartHead {
  name: string | undefined;
  /** Undefined when the head has no filename; '' when it has an empty one. */
  filename: string | undefined;
}

interface PartHeadsOptions {
  boundary: string;
  fileField: string;
  maxParts: number;
  /** The maximum size of all files. */
  maxFileBytes: number;
  /** The maximum size of everything else: boundaries, heads, text fields, and bytes between parts. */
  maxOtherBytes: number;
}

/**
 * Rewrites the head of each part of a multipart body, so that busboy treats the part as the client means it:
 * - A part named `fileField` is a file, also without a filename. busboy decides by filename and Content-Type.
 * - A part with another name and no filename is a text field, whatever its Content-Type is.
 * - A head that is not UTF-8 is windows-1252, which browsers send from pages in Latin-1.
 * - A file part with an empty filename and no content is skipped: browsers send it for an empty file input.
 *
 * busboy gets the index of a file in `filenames` as its filename. The bodies of parts pass unchanged.
 *
 * A body that exceeds a limit fails at once: busboy and multer would read it to its end, which may never come.
 */
export class PartHeads extends Transform {
  /** The filename of each file part, in order; null without one. */
  readonly filenames: (string | null)[] = [];
  readonly #fileField: string;
  /** How many more parts are rewritten. busboy reads no further parts, so they pass unchanged. */
  #partsLeft: number;
  /** The bytes before the head of another part, and the bytes before any boundary. */
  readonly #delimiter: Buffer;
  readonly #endOfBody: Buffer;
  #isInHead = false;
  #isInFile = false;
  #preambleBytesLeft = MAX_PREAMBLE_BYTES;
  #otherBytesLeft: number;
  #fileBytesLeft: number;
  readonly #options: PartHeadsOptions;
  /** Bytes that wait for more. Starts with the line break that is missing before the first boundary. */
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

  /** Passes on the body up to the next head, without a possible start of a delimiter. Gives the number of bytes taken. */
  #takeBody(bytes: Buffer): number {
    const at = this.#partsLeft > 0 ? bytes.indexOf(this.#delimiter) : -1;
    const end = at >= 0 ? at + this.#delimiter.length : this.#startOfDelimiter(bytes);
    this.#countBody(at >= 0 ? at : end);
    this.#isInHead = at >= 0;
    if (end > 0) this.push(bytes.subarray(0, end));
    return end;
  }

  /** Counts the bytes of a preamble, a file, or anything else against their limits. */
  #countBody(bytes: number): void {
    if (this.#isInFile) {
      this.#fileBytesLeft -= bytes;
      if (this.#fileBytesLeft < 0) throw tooLarge(this.#options.maxFileBytes);
      return;
    }
    this.#countOther(bytes);
    if (this.#partsLeft < this.#options.maxParts) return;
    this.#preambleBytesLeft -= bytes;
    if (this.#preambleBytesLeft < 0)
      throw invalid(`multipart body: no part starts within the first ${MAX_PREAMBLE_BYTES / 1024} KB`);
  }

  #countOther(bytes: number): void {
    this.#otherBytesLeft -= bytes;
    if (this.#otherBytesLeft >= 0) return;
    throw invalid(`multipart body: more than ${this.#options.maxOtherBytes / 1024} KB outside of files`);
  }

  /** The index of an incomplete delimiter at the end, else the length. */
  #startOfDelimiter(bytes: Buffer): number {
    let at = bytes.indexOf('\r', Math.max(0, bytes.length - this.#delimiter.length + 1));
    while (at >= 0 && !this.#delimiter.subarray(0, bytes.length - at).equals(bytes.subarray(at))) {
      at = bytes.indexOf('\r', at + 1);
    }
    return at < 0 ? bytes.length : at;
  }

  /** Passes on a complete head. Gives the number of bytes taken. */
  #takeHead(bytes: Buffer): number {
    const at = bytes.indexOf(END_OF_HEAD);
    const end = at + END_OF_HEAD.length;
    if ((at < 0 ? bytes.length : at) > MAX_HEAD_BYTES) {
      throw invalid(`multipart body: the head of a part has more than ${MAX_HEAD_BYTES / 1024} KB`);
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

/** Reads the boundary in a Content-Type. Some clients do not quote boundaries that need quotes. */
export function boundaryOf(contentType: string): string | undefined {
  for (const [, key, quoted, bare = ''] of contentType.matchAll(PARAMETER)) {
    if (key?.toLowerCase() === 'boundary') return (quoted?.replace(/\\(["\\])/g, '$1') ?? bare.trim()) || undefined;
  }
  return undefined;
}

/** Decodes text without a declared encoding as UTF-8, else as windows-1252, in which every byte is a character. */
export function decodeText(bytes: Uint8Array): string {
  return new TextDecoder(isUtf8(bytes) ? 'utf-8' : 'windows-1252', { ignoreBOM: true }).decode(bytes);
}

/** Parses a head; undefined if it is not form data. */
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

/** Browsers escape only these three characters. */
function unescapeName(filename: string): string {
  return filename.replace(/%0A|%0D|%22/gi, decodeURIComponent);
}

/** Decodes a value in the format of RFC 5987, such as `UTF-8''%C3%BC.pdf`, even with a wrong charset. */
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

export function tooLarge(maxBytes: number): AppError {
  return new AppError('file_too_large', `the files of an upload must have at most ${maxBytes / 2 ** 20} MB in total`, {
    status: 413,
  });
}
