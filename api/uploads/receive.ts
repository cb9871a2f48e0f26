import { randomUUIDv7 } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import type { Readable } from 'node:stream';
import type { Request } from 'express';
import multer, { MulterError } from 'multer';
import { AppError } from '../../runtime/errors.ts';
import { type MediaType, originalPath } from '../../store/paths.ts';
import type { Received, Store } from '../../store/store.ts';
import { invalid } from '../http/problem.ts';
import { detectType } from './file-type.ts';
import { boundaryOf, decodeText, PartHeads, tooLarge } from './part-headers.ts';

/** An upload whose files are complete in the store, before its rows are stored. */
export interface ReceivedUpload {
  id: string;
  /** The text fields; a field that was sent twice is a list. */
  fields: FormFields;
  /** In the order in which they were sent. */
  files: ReceivedFile[];
  /** Removes all files. */
  discard(): Promise<void>;
}

interface ReceivedFile {
  original: number;
  filename: string | null;
  mediaType: MediaType;
  received: Received;
}

type FormFields = Record<string, string | string[]>;

const FILE_FIELD = 'file';
const MAX_FILES = 20;
const MAX_FIELDS = 20;
const MAX_FIELD_BYTES = 2048;
const MAX_FILENAME_LENGTH = 1000;
/** Boundaries, heads, text fields, and bytes between parts. */
const MAX_OTHER_BYTES = 1024 * 1024;

/** The messages of multer's errors; others keep the message of multer. */
const MULTIPART_ERRORS: Record<string, (field?: string) => string> = {
  LIMIT_FILE_COUNT: () => `file: more than ${MAX_FILES} files in one upload`,
  LIMIT_UNEXPECTED_FILE: (field) => `files must be in the field "file" (got "${field}")`,
  LIMIT_FIELD_VALUE: (field) => `${field}: must have at most ${MAX_FIELD_BYTES} bytes; send files in the field "file"`,
};

/**
 * Streams the files of the field `file` into the folder of a new upload id in the store. The first bytes of a file decide
 * its type; an unknown type is refused at once. Rejects with 400, 413 or 415 before the rest of the body is received; the
 * files that were received are then removed.
 */
export async function receiveUpload(request: Request, store: Store, maxBytes: number): Promise<ReceivedUpload> {
  const boundary = requireBoundary(request);
  if (Number(request.headers['content-length'] ?? 0) > maxBytes + MAX_OTHER_BYTES) throw tooLarge(maxBytes);
  // Each file that is being stored listens for a disconnect of the client.
  request.setMaxListeners(MAX_FILES + request.getMaxListeners());
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const form = openForm(request, boundary, maxBytes);
  form.once('error', (error) => {
    // Nothing else reads the rest of the body, and the client may read the answer only after it has sent everything.
    request.resume();
    reject(error);
  });
  const fail = (error: unknown) => reject(fromForm(error, request));
  const storage = new UploadStorage({ store, request, filenames: form.filenames, onError: fail });
  const parser = createParser(storage);
  parser.parse(form, undefined, (error) => (error ? fail(error) : resolve()));
  await promise;
  return { id: storage.id, files: storage.files, fields: decodeFields(form.body), discard: () => storage.discard() };
}

function requireBoundary(request: Request): string {
  if (!request.is('multipart/form-data')) {
    const message = 'Content-Type: must be multipart/form-data, with the files in the field "file"';
    throw new AppError('unsupported_media_type', message, { status: 415 });
  }
  const boundary = boundaryOf(request.headers['content-type'] ?? '');
  if (boundary === undefined) throw invalid('Content-Type: has no boundary');
  return boundary;
}

/** The part of a request that multer uses. */
interface MultipartForm extends Readable {
  headers: IncomingHttpHeaders;
  /** The text fields, set by multer. */
  body?: FormFields;
}

/** The body of a request with rewritten heads, in the shape of a request that multer reads. */
function openForm(request: Request, boundary: string, maxFileBytes: number): PartHeads & MultipartForm {
  // One part more than multer allows, so that multer refuses the part.
  const maxParts = MAX_FILES + MAX_FIELDS + 2;
  const limits = { maxParts, maxFileBytes, maxOtherBytes: MAX_OTHER_BYTES };
  const heads = new PartHeads({ boundary, fileField: FILE_FIELD, ...limits });
  const quoted = boundary.replace(/["\\]/g, '\\$&');
  const headers = { ...request.headers, 'content-type': `multipart/form-data; boundary="${quoted}"` };
  request.once('close', () => request.readableEnded || heads.destroy(disconnected()));
  return request.pipe(Object.assign(heads, { headers }));
}

interface FormParser {
  /** Reports the first error, or success, to `done`. The types of multer ask for a whole Express request. */
  parse(form: MultipartForm, response: unknown, done: (error?: unknown) => void): void;
}

function createParser(storage: UploadStorage): FormParser {
  const options = {
    storage,
    limits: {
      files: MAX_FILES,
      fields: MAX_FIELDS,
      fieldSize: MAX_FIELD_BYTES,
      parts: MAX_FILES + MAX_FIELDS,
      fieldNestingDepth: 0,
    },
    defParamCharset: 'utf8',
    // Each byte of a text field becomes one character, which `decodeFields` decodes.
    defCharset: 'latin1',
  };
  return { parse: multer(options).array(FILE_FIELD) };
}

interface StorageOptions {
  store: Store;
  request: Request;
  /** The name of each file, by the index that multer receives as its name. */
  filenames: (string | null)[];
  /** Reports an error at once: multer waits until the client has sent everything, which may never happen. */
  onError: (error: unknown) => void;
}

/** Stores the files of one request for multer. */
class UploadStorage implements multer.StorageEngine {
  readonly id = randomUUIDv7();
  readonly #options: StorageOptions;
  #count = 0;
  /** Stored files by path. */
  readonly #stored = new Map<string, ReceivedFile>();

  constructor(options: StorageOptions) {
    this.#options = options;
  }

  get files(): ReceivedFile[] {
    return [...this.#stored.values()].sort((a, b) => a.original - b.original);
  }

  async discard(): Promise<void> {
    await Promise.all(this.files.map(({ received }) => received.discard()));
  }

  _handleFile(
    _request: unknown,
    file: Express.Multer.File,
    done: (error?: unknown, info?: { path: string }) => void,
  ): void {
    const original = ++this.#count;
    this.#receive(original, file).then(
      (stored) => {
        this.#stored.set(stored.received.path, stored);
        done(null, { path: stored.received.path });
      },
      (error) => {
        this.#options.onError(error);
        done(error);
      },
    );
  }

  _removeFile(_request: unknown, { path }: { path: string }, done: (error: Error | null) => void): void {
    const discarded = this.#stored.get(path)?.received.discard() ?? Promise.resolve();
    discarded.then(() => done(null), done);
  }

  async #receive(original: number, { originalname, stream }: Express.Multer.File): Promise<ReceivedFile> {
    const { store, request, filenames, onError } = this.#options;
    let filename: string | null = null;
    let mediaType: MediaType | undefined;
    const place = (head: Buffer) => {
      try {
        filename = displayName(filenames[Number(originalname)] ?? null, original);
        mediaType = typeOf(head, original, filename);
        return originalPath(this.id, original, mediaType);
      } catch (error) {
        // The store destroys the stream next, and multer must not report that first.
        onError(error);
        throw error;
      }
    };
    // A part of a body does not end when its client disconnects.
    const abort = () => request.readableEnded || stream.destroy(disconnected());
    request.once('close', abort);
    try {
      const received = await store.receive(stream, place);
      if (mediaType === undefined) throw new Error('the store received a file without its type');
      return { original, filename, mediaType, received };
    } finally {
      request.off('close', abort);
    }
  }
}

/** The name that the client sent, truncated. For display only: no path is made of it. Throws 400 for NUL. */
function displayName(filename: string | null, original: number): string | null {
  if (filename?.includes('\0')) throw invalid(`file: the filename of file ${original} must not contain NUL`);
  const name = filename?.slice(0, MAX_FILENAME_LENGTH) ?? null;
  // Truncation can split a surrogate pair.
  return name?.isWellFormed() === false ? name.slice(0, -1) : name;
}

/** The type of a file by its first bytes. Throws 415 for an unsupported type. */
function typeOf(head: Buffer, original: number, filename: string | null): MediaType {
  const mediaType = detectType(head);
  if (mediaType !== null) return mediaType;
  const reason = head.length === 0 ? 'is empty' : 'is neither PDF, PNG nor JPEG by its content';
  const name = `file ${original}${filename ? ` (${filename})` : ''}`;
  throw new AppError('unsupported_media_type', `${name} ${reason}`, { status: 415 });
}

/** Decodes text fields in which busboy made a character of each byte. */
function decodeFields(fields: FormFields = {}): FormFields {
  const decode = (text: string) => decodeText(Buffer.from(text, 'latin1'));
  return Object.fromEntries(
    Object.entries(fields).map(([name, value]) => [
      name,
      typeof value === 'string' ? decode(value) : value.map(decode),
    ]),
  );
}

/** Maps errors of multer and busboy, which also fail the files that the store receives. */
function fromForm(error: unknown, request: Request): unknown {
  if (error instanceof MulterError) return invalid(MULTIPART_ERRORS[error.code]?.(error.field) ?? error.message);
  if (error instanceof AppError || !(error instanceof Error)) return error;
  if (request.destroyed && !request.complete) return disconnected();
  // busboy throws plain errors for a malformed body.
  const isMalformed = /boundary|multipart|end of form|malformed/i.test(error.message);
  return isMalformed ? invalid(`unreadable multipart body: ${error.message}`) : error;
}

function disconnected(): AppError {
  return invalid('the client disconnected');
}
