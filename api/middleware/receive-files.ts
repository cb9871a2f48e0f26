import { randomUUIDv7 } from 'node:crypto';
import type { Readable } from 'node:stream';
import type { Request, RequestHandler } from 'express';
import multer from 'multer';
import { AppError } from '../../errors.ts';
import { type MediaType, originalPath } from '../../store/paths.ts';
import type { Received, Store } from '../../store/store.ts';
import { stopReading } from '../admission.ts';
import { invalid } from '../problem.ts';
import { sniff } from '../sniff.ts';

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

const MOST_FILES = 20;
/** What boundaries, part headers and text fields may add to the files. */
const MULTIPART_OVERHEAD = 1024 * 1024;
/** busboy drops a file part without a name, so one is lent to it. Not a name that a client can send. */
const NAMELESS = `nameless-${randomUUIDv7()}`;
const LONGEST_FILENAME = 1000;

/** Of a request: the id of its upload, its files and their bytes so far, and how to end it before all of it was sent. */
interface UnderWay {
  id: string;
  files: number;
  bytes: number;
  refuse: (error: unknown) => void;
}

const underWay = new WeakMap<Request, UnderWay>();

/**
 * Streams the files of the field `file` into the store, in order, each to its path in the folder of an upload of a new id,
 * for `receivedUpload`; text fields become `request.body`. A file of no known type is refused at its first bytes. What was
 * received is removed when the body as a whole is refused; later that is up to the handler (`discardFiles`).
 */
export function receiveFiles(store: Store, maxUploadBytes: number): RequestHandler {
  const tooLarge = () =>
    new AppError('file_too_large', `an upload may have ${maxUploadBytes / 2 ** 20} MB in all`, { status: 413 });

  async function* counted(request: Request, stream: Readable) {
    const state = underWay.get(request) as UnderWay;
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      state.bytes += chunk.length;
      if (state.bytes > maxUploadBytes) {
        const error = tooLarge();
        // Otherwise multer hears of a stream that broke off before it hears of this.
        stream.destroy(error);
        state.refuse(error);
        throw error;
      }
      yield chunk;
    }
  }

  const storage: multer.StorageEngine = {
    _handleFile(request, file, done) {
      const state = underWay.get(request) as UnderWay;
      const original = ++state.files;
      const filename = file.originalname === NAMELESS ? null : displayName(file.originalname);
      let mediaType: MediaType | null;
      const place = (head: Buffer) => {
        mediaType = sniff(head);
        if (mediaType !== null) return originalPath(state.id, original, mediaType);
        const what = head.length === 0 ? 'is empty' : 'is neither PDF, PNG nor JPEG by its content';
        const name = `file ${original}${filename ? ` (${filename})` : ''}`;
        const error = new AppError('unsupported_media_type', `${name} ${what}`, { status: 415 });
        state.refuse(error);
        throw error;
      };
      // A client that goes away in the middle ends no stream by itself.
      const abort = () => request.readableEnded || file.stream.destroy(invalid('the client went away'));
      request.once('close', abort);
      store
        .receive(counted(request, file.stream), place)
        .finally(() => request.off('close', abort))
        .then(
          (received) => done(null, { original, filename, mediaType, received } as object),
          (error) => {
            state.refuse(error);
            done(error);
          },
        );
    },
    _removeFile(_request, file, done) {
      (file as unknown as { received: Received }).received.discard().then(() => done(null), done);
    },
  };
  const parseBody = multer({
    storage,
    limits: { files: MOST_FILES, fields: 20, fieldSize: 2048, parts: 40, fieldNestingDepth: 0 },
    preservePath: true,
    defParamCharset: 'utf8',
    streamHandler(request: NodeJS.ReadableStream, busboy: NodeJS.WritableStream) {
      busboy.prependListener('file', (_name: string, _stream: unknown, info: { filename?: string }) => {
        info.filename ||= NAMELESS;
      });
      request.pipe(busboy);
    },
  } as multer.Options).array('file');

  return function receiveFilesInto(request, response, next) {
    if (!request.is('multipart/form-data')) {
      throw new AppError('unsupported_media_type', 'send multipart/form-data with the files in the field "file"', {
        status: 415,
      });
    }
    if (Number(request.headers['content-length'] ?? 0) > maxUploadBytes + MULTIPART_OVERHEAD) {
      stopReading(request, response);
      throw tooLarge();
    }
    // Files may end together, and each listens for a client that goes away.
    request.setMaxListeners(MOST_FILES + request.getMaxListeners());
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
    underWay.set(request, { id: randomUUIDv7(), files: 0, bytes: 0, refuse });
    parseBody(request, response, passOn);
  };
}

/** What `receiveFiles` has received. Throws 400 if there is no file. */
export function receivedUpload(request: Request): ReceivedUpload {
  const files = filesOf(request);
  if (files.length === 0) throw invalid('no file: send at least one in the field "file", with a filename');
  return { id: (underWay.get(request) as UnderWay).id, files };
}

/** Removes what was received. */
export async function discardFiles(request: Request): Promise<void> {
  await Promise.all(filesOf(request).map(({ received }) => received.discard()));
}

function filesOf(request: Request): ReceivedFile[] {
  return (request.files ?? []) as unknown as ReceivedFile[];
}

/** As sent, but for what Postgres cannot store, and bounded. For display only: no path is ever made of it. */
function displayName(filename: string): string {
  return filename.replaceAll('\0', '\uFFFD').slice(0, LONGEST_FILENAME);
}
