import { randomUUIDv7 } from 'node:crypto';
import type { Request, RequestHandler } from 'express';
import multer from 'multer';
import { AppError } from '../../runtime/errors.ts';
import { type MediaType, originalPath } from '../../store/paths.ts';
import type { Received, Store } from '../../store/store.ts';
import { stopReading } from '../http/admission.ts';
import { invalid } from '../http/problem.ts';
import { sniff } from './file-type.ts';
import { boundaryOf, decodeText, PartHeads, tooLarge } from './part-headers.ts';

/** An upload whose files are complete in the store, though no row tells of it yet. */
export interface ReceivedUpload {
  id: string;
  files: ReceivedFile[];
}

interface ReceivedFile {
  original: number;
  filename: string | null;
  mediaType: MediaType;
  received: Received;
}

const FILE_FIELD = 'file';
const MAX_FILES = 20;
const MAX_PARTS = 40;
const MAX_FIELD_BYTES = 2048;
const MAX_FILENAME_LENGTH = 1000;
/** Boundaries, heads, text fields, and what belongs to no part. */
const MAX_OTHER_BYTES = 1024 * 1024;

const uploadIds = new WeakMap<Request, string>();

/**
 * Streams the files of the field `file` into the store, in order, each to its path in the folder of an upload of a new id,
 * for `receivedUpload`; text fields become `request.body`. A file of no known type is refused at its first bytes. What was
 * received is removed when the body as a whole is refused; later that is up to the handler (`discardFiles`).
 */
export function receiveFiles(store: Store, maxUploadBytes: number): RequestHandler {
  return function receiveFilesInto(request, response, next) {
    if (!request.is('multipart/form-data')) {
      throw new AppError('unsupported_media_type', 'send multipart/form-data with the files in the field "file"', {
        status: 415,
      });
    }
    const boundary = boundaryOf(request.headers['content-type'] ?? '');
    if (boundary === undefined) throw invalid('Content-Type: has no boundary');
    if (Number(request.headers['content-length'] ?? 0) > maxUploadBytes + MAX_OTHER_BYTES) {
      stopReading(request, response);
      throw tooLarge(maxUploadBytes);
    }
    // Files may end together, and each listens for a client that goes away.
    request.setMaxListeners(MAX_FILES + request.getMaxListeners());
    let isPassedOn = false;
    const passOn = (error?: unknown) => {
      if (!isPassedOn) next(error);
      isPassedOn = true;
    };
    // multer waits until the client has sent everything, which may be never.
    const refuse = (error: unknown) => {
      stopReading(request, response);
      passOn(error);
    };
    const form = openForm(request, boundary, maxUploadBytes);
    form.once('error', (error) => {
      // Nothing reads the rest of the body now, and a client that sends all of it first would not see the answer.
      request.resume();
      refuse(error);
    });
    const storage = new UploadStorage({ store, request, filenames: form.filenames, refuse });
    uploadIds.set(request, storage.id);
    const parseForm = multer({
      storage,
      limits: {
        files: MAX_FILES,
        fields: 20,
        fieldSize: MAX_FIELD_BYTES,
        parts: MAX_PARTS,
        fieldNestingDepth: 0,
      },
      defParamCharset: 'utf8',
      // Every byte of a text field becomes one character, for `decodeFields`.
      defCharset: 'latin1',
    } as multer.Options).array(FILE_FIELD);
    parseForm(form, response, (error?: unknown) => {
      request.body = decodeFields(form.body);
      if (form.files !== undefined) request.files = form.files;
      passOn(error);
    });
  };
}

/** The body of a request with its heads rewritten, in the shape of a request that multer reads. */
function openForm(request: Request, boundary: string, maxFileBytes: number): PartHeads & Request {
  // One part more than the limit, so that busboy sees that there are too many.
  const maxParts = MAX_PARTS + 2;
  const bounds = { maxParts, maxFileBytes, maxOtherBytes: MAX_OTHER_BYTES };
  const heads = new PartHeads({ boundary, fileField: FILE_FIELD, ...bounds });
  const quoted = boundary.replace(/["\\]/g, '\\$&');
  const headers = { ...request.headers, 'content-type': `multipart/form-data; boundary="${quoted}"` };
  request.once('close', () => request.readableEnded || heads.destroy(wentAway()));
  return request.pipe(Object.assign(heads, { headers }) as unknown as PartHeads & Request);
}

interface StorageOptions {
  store: Store;
  request: Request;
  /** The name of each file, by the index that multer knows as its name. */
  filenames: (string | null)[];
  /** Answers the request before all of it was sent. */
  refuse: (error: unknown) => void;
}

/** Stores the files of one request for multer. */
class UploadStorage implements multer.StorageEngine {
  readonly id = randomUUIDv7();
  readonly #options: StorageOptions;
  #files = 0;

  constructor(options: StorageOptions) {
    this.#options = options;
  }

  _handleFile(_request: unknown, file: Express.Multer.File, done: (error?: unknown, info?: object) => void): void {
    const { store, request, refuse } = this.#options;
    const original = ++this.#files;
    let mediaType: MediaType | undefined;
    let filename: string | null = null;
    const place = (head: Buffer) => {
      try {
        filename = displayName(this.#options.filenames[Number(file.originalname)] ?? null, original);
        mediaType = typeOf(head, original, filename);
        return originalPath(this.id, original, mediaType);
      } catch (error) {
        // The stream breaks off next, and multer must not report that first.
        refuse(error);
        throw error;
      }
    };
    // A stream does not end when its client disconnects.
    const abort = () => request.readableEnded || file.stream.destroy(wentAway());
    request.once('close', abort);
    store
      .receive(file.stream as AsyncIterable<Buffer>, place)
      .finally(() => request.off('close', abort))
      .then(
        (received) => done(null, { original, filename, mediaType, received }),
        (error) => {
          refuse(error);
          done(error);
        },
      );
  }

  _removeFile(_request: unknown, file: object, done: (error: Error | null) => void): void {
    (file as { received: Received }).received.discard().then(() => done(null), done);
  }
}

/** What `receiveFiles` has received. Throws 400 if there is no file. */
export function receivedUpload(request: Request): ReceivedUpload {
  const files = filesOf(request);
  if (files.length === 0) throw invalid('file: missing; send at least one file in the field "file"');
  return { id: uploadIds.get(request) as string, files };
}

/** Removes what was received. */
export async function discardFiles(request: Request): Promise<void> {
  await Promise.all(filesOf(request).map(({ received }) => received.discard()));
}

function filesOf(request: Request): ReceivedFile[] {
  return (request.files ?? []) as unknown as ReceivedFile[];
}

/** As sent, and bounded. For display only: no path is ever made of it. Throws 400 for what Postgres cannot store. */
function displayName(filename: string | null, original: number): string | null {
  if (filename?.includes('\0')) throw invalid(`file: the filename of file ${original} must not contain NUL`);
  const name = filename?.slice(0, MAX_FILENAME_LENGTH) ?? null;
  // The cut may go through a pair of surrogates.
  return name?.isWellFormed() === false ? name.slice(0, -1) : name;
}

/** The type of a file by its first bytes. Throws 415 for one that cannot be converted. */
function typeOf(head: Buffer, original: number, filename: string | null): MediaType {
  const mediaType = sniff(head);
  if (mediaType !== null) return mediaType;
  const what = head.length === 0 ? 'is empty' : 'is neither PDF, PNG nor JPEG by its content';
  const name = `file ${original}${filename ? ` (${filename})` : ''}`;
  throw new AppError('unsupported_media_type', `${name} ${what}`, { status: 415 });
}

/** Text fields as busboy gives them, with a character for each byte, as text. A field that was sent twice is a list. */
function decodeFields(fields: Record<string, string | string[]> | undefined): Record<string, string | string[]> {
  const decode = (text: string) => decodeText(Buffer.from(text, 'latin1'));
  return Object.fromEntries(
    Object.entries(fields ?? {}).map(([name, value]) => [
      name,
      typeof value === 'string' ? decode(value) : value.map(decode),
    ]),
  );
}

function wentAway(): AppError {
  return invalid('the client went away');
}
