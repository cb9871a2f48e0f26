import { randomUUIDv7 } from 'node:crypto';
import type { Readable } from 'node:stream';
import type { Request, RequestHandler } from 'express';
import multer from 'multer';
import { AppError } from '../../errors.ts';
import type { MediaType } from '../../store/paths.ts';
import type { Received, Store } from '../../store/store.ts';
import { stopReading } from '../admission.ts';
import { invalid } from '../problem.ts';
import { sniff } from '../sniff.ts';

/** A file of a multipart body: complete in the store, though not at its path yet. */
export interface ReceivedFile {
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

/**
 * Streams the files of the field `file` into the store, in order, as `request.files`; text fields become `request.body`.
 * Whatever is received is discarded when the response ends, unless it was kept by then.
 */
export function receiveFiles(store: Store, maxUploadBytes: number): RequestHandler {
  const tooLarge = () =>
    new AppError('file_too_large', `an upload may have ${maxUploadBytes / 2 ** 20} MB in all`, { status: 413 });

  /** Of each request under way: the bytes of its files so far, and how to end it before the client has sent the rest. */
  type State = { bytes: number; refuse: (error: AppError) => void };
  const underWay = new WeakMap<Request, State>();
  async function* counted(request: Request, stream: Readable) {
    const state = underWay.get(request) as State;
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
      // A client that goes away in the middle ends no stream by itself.
      const abort = () => request.readableEnded || file.stream.destroy(invalid('the client went away'));
      request.once('close', abort);
      store
        .receive(counted(request, file.stream))
        .finally(() => request.off('close', abort))
        .then((received) => done(null, { received } as object), done);
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
    const refuse = (error: AppError) => {
      stopReading(request, response);
      passOn(error);
    };
    underWay.set(request, { bytes: 0, refuse });
    parseBody(request, response, passOn);
  };
}

/** What `receiveFiles` put on the request, with the types that the bytes show. Throws 400 or 415. */
export function receivedFiles(request: Request): ReceivedFile[] {
  const files = (request.files ?? []) as unknown as { originalname: string; received: Received }[];
  if (files.length === 0) throw invalid('no file: send at least one in the field "file", with a filename');
  return files.map(({ originalname, received }, index) => {
    const filename = originalname === NAMELESS ? null : displayName(originalname);
    const mediaType = sniff(received.head);
    if (mediaType === null) {
      const what = received.bytes === 0 ? 'is empty' : 'is neither PDF, PNG nor JPEG by its content';
      throw new AppError('unsupported_media_type', `file ${index + 1}${filename ? ` (${filename})` : ''} ${what}`, {
        status: 415,
      });
    }
    return { filename, mediaType, received };
  });
}

/** Removes what was received and not kept. */
export async function discardFiles(request: Request): Promise<void> {
  const files = (request.files ?? []) as unknown as { received: Received }[];
  await Promise.all(files.map(({ received }) => received.discard()));
}

/** As sent, but for what Postgres cannot store, and bounded. For display only: no path is ever made of it. */
function displayName(filename: string): string {
  return filename.replaceAll('\0', '\uFFFD').slice(0, LONGEST_FILENAME);
}
