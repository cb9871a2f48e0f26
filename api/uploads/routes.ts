import { type Request, type Response, Router } from 'express';
import { z } from 'zod';
import { cancelUpload } from '../../conversion/cancel-upload.ts';
import { deleteUpload } from '../../conversion/delete-upload.ts';
import { retryUpload } from '../../conversion/retry-upload.ts';
import type { Database } from '../../db/client.ts';
import type { Queues } from '../../db/queues.ts';
import type { Read } from '../../db/replica.ts';
import {
  findOriginal,
  findPage,
  findUpload,
  findUploads,
  listOriginals,
  listSomePages,
  listUploads,
  type Upload,
} from '../../db/uploads.ts';
import { listWebhooks } from '../../db/webhooks.ts';
import { isChanging } from '../../jobs/maintenance.ts';
import type { Config } from '../../runtime/config.ts';
import type { Logger } from '../../runtime/log.ts';
import { Room } from '../../runtime/quota.ts';
import { uploadFolder } from '../../store/paths.ts';
import type { Store } from '../../store/store.ts';
import {
  listedUpload,
  originalDocument,
  pageDocument,
  statusDocument,
  webhookPage,
  writePageCursor,
} from '../documents.ts';
import { callerOf, isVisible } from '../http/admission.ts';
import { askTogether } from '../http/batch-loader.ts';
import { originalDisposition, pageDisposition } from '../http/disposition.ts';
import { fingerprintOf, idempotencyOf, idempotent, sendAnswer } from '../http/idempotency.ts';
import type { Waiting } from '../http/long-poll.ts';
import { refuseOverload } from '../http/overload.ts';
import { notFound, parse } from '../http/problem.ts';
import {
  ordinal,
  pageList,
  readPageCursor,
  uploadFields,
  uploadList,
  webhookList,
  withoutEmptyFields,
} from '../http/schemas.ts';
import { sendStored } from '../http/send-file.ts';
import { type StatusCache, type StatusDocument, uploadKey } from '../http/status-cache.ts';
import type { QueueBounds } from '../jobs/queue-bounds.ts';
import { bytesReceived, uploadsAccepted } from '../operations/metrics.ts';
import { type Guard, refuseForbidden } from '../webhooks/ssrf-guard.ts';
import { limitConcurrentUploads } from './concurrent-uploads.ts';
import { createUploads } from './create.ts';
import { readUpload } from './read-upload.ts';
import { discardFiles, receivedUpload, receiveFiles } from './receive.ts';
import { sendArchive } from './send-archive.ts';

const uuid = z.uuid().toLowerCase();
/** Statuses that one query reads; each has about 1 KB. */
const MAX_STATUSES = 500;
/** Pages of the archives that are sent at a time: each takes about 1 KB of memory. */
const MAX_ARCHIVED_PAGES = 200_000;

/** The calls of the Uploads table of the contract. */
export function uploadRoutes(parts: {
  db: Database;
  heavyDb: Database;
  read: Read;
  queues: Queues;
  bounds: QueueBounds;
  store: Store;
  guard: Guard;
  config: Config;
  log: Logger;
  cache: StatusCache;
  waiting: Waiting;
}): Router {
  const { db, heavyDb, read, queues, store, config, cache, waiting, log } = parts;
  const router = Router();
  const archiveRoom = new Room({ name: 'archives', max: MAX_ARCHIVED_PAGES });
  const askStatus = askTogether<StatusDocument>(MAX_STATUSES, async (ids) => {
    // Before the rows, so that none is cached as it was before the last step of a change.
    const isStable = !(await isChanging(db));
    const found = await findUploads(db, ids);
    return new Map(
      found.map((upload) => {
        const body = statusDocument(upload);
        return [upload.id, { owner: upload.owner, done: body.done, isCacheable: body.done && isStable, body }];
      }),
    );
  });

  async function requestedUpload(request: Request): Promise<Upload> {
    const id = idOf(request);
    const upload = await findUpload(db, id);
    if (upload === undefined || !isVisible(upload, callerOf(request))) throw notFound(`upload ${id}`);
    return upload;
  }

  /** The id in the path, as Postgres writes it. Throws 404 for what is none. */
  function idOf(request: Request): string {
    const id = uuid.safeParse(request.params.id);
    if (!id.success) throw notFound(`upload ${request.params.id}`);
    return id.data;
  }

  const receive = receiveFiles(store, config.MAX_UPLOAD_MB * 2 ** 20);
  const createUpload = createUploads(parts);
  router.post(
    '/uploads',
    limitConcurrentUploads(config.MAX_CONCURRENT_UPLOADS),
    refuseOverload(parts),
    idempotent(parts),
    receive,
    async (request: Request, response: Response) => {
      const { fields, received, fingerprint, known } = await accept(request).catch(async (error) => {
        await discardFiles(request);
        throw error;
      });
      if (known !== undefined) {
        await discardFiles(request);
        return sendAnswer(response, known);
      }
      const answer = await createUpload({
        owner: callerOf(request).owner,
        traceparent: response.locals.traceparent,
        fields,
        received,
        idempotency: idempotencyOf(request),
        fingerprint,
      });
      uploadsAccepted.inc();
      bytesReceived.inc(received.files.reduce((sum, file) => sum + file.received.bytes, 0));
      sendAnswer(response, answer);
    },
  );

  /** Reads what was sent, and its first answer if it was sent before. Throws what refuses it. */
  async function accept(request: Request) {
    const fields = parse(uploadFields, withoutEmptyFields(request.body));
    refuseForbidden(parts.guard, fields.notify_url);
    const received = receivedUpload(request);
    const sent = received.files.map(({ filename, received: { sha256 } }) => ({ filename, sha256 }));
    const fingerprint = fingerprintOf({ fields: request.body, sent });
    return { fields, received, fingerprint, known: idempotencyOf(request).known(fingerprint) };
  }

  router.get('/uploads', async (request, response) => {
    const { status, search, limit, cursor } = parse(uploadList, { ...request.query });
    const filter = { owner: callerOf(request).sees, status, search, limit: limit + 1, before: cursor };
    const found = await read((from) => listUploads(from, filter), search === undefined ? db : heavyDb);
    const items = found.slice(0, limit);
    response.json({
      items: items.map(listedUpload),
      next_cursor: found.length > limit ? (items.at(-1)?.id ?? null) : null,
    });
  });

  async function sendUpload(upload: Upload, response: Response): Promise<void> {
    response.json(await readUpload(db, upload));
  }

  router.get('/uploads/:id', async (request, response) => {
    const { upload } = await waiting.hold(request, response, uploadKey(idOf(request)), async () => {
      const upload = await requestedUpload(request);
      return { upload, done: upload.finishedAt !== null };
    });
    await sendUpload(upload, response);
  });

  router.post('/uploads/:id/cancel', async (request, response) => {
    await cancelUpload(db, queues, (await requestedUpload(request)).id);
    await sendUpload(await requestedUpload(request), response);
  });

  router.post('/uploads/:id/retry', async (request, response) => {
    await retryUpload(db, queues, (await requestedUpload(request)).id);
    await cache.invalidate();
    await sendUpload(await requestedUpload(request), response);
  });

  router.get('/uploads/:id/status', async (request, response) => {
    const id = idOf(request);
    const { body } = await waiting.hold(request, response, uploadKey(id), async () => {
      const known = await cache.through(uploadKey(id), () => askStatus(id));
      if (known === undefined || !isVisible(known, callerOf(request))) throw notFound(`upload ${id}`);
      return known;
    });
    response.json(body);
  });

  router.get('/uploads/:id/pages', async (request, response) => {
    const { limit, cursor } = parse(pageList, { ...request.query });
    const { id, status } = await requestedUpload(request);
    const { items, next } = await read((from) => listSomePages(from, id, { limit, after: readPageCursor(cursor) }));
    response.json({ id, status, items: items.map(pageDocument), next_cursor: writePageCursor(next) });
  });

  router.get('/uploads/:id/originals', async (request, response) => {
    const { id } = await requestedUpload(request);
    response.json({ id, items: (await read((from) => listOriginals(from, id))).map(originalDocument) });
  });

  router.get('/uploads/:id/webhooks', async (request, response) => {
    const { limit, cursor } = parse(webhookList, { ...request.query });
    const { id } = await requestedUpload(request);
    response.json(webhookPage(await listWebhooks(db, { uploadId: id }, { limit: limit + 1, after: cursor }), limit));
  });

  router.get('/uploads/:id/originals/:original', async (request, response) => {
    const upload = await requestedUpload(request);
    const number = ordinal.safeParse(request.params.original);
    const original = number.success ? await findOriginal(db, upload.id, number.data) : undefined;
    if (original === undefined) throw notFound(`original ${request.params.original}`);
    const { mediaType: type } = original;
    await sendStored(request, response, store, { ...original, type, disposition: originalDisposition(original) });
  });

  router.get('/uploads/:id/pages/:original/:page.png', async (request, response) => {
    const upload = await requestedUpload(request);
    const { original, page } = request.params;
    const numbers = z.tuple([ordinal, ordinal]).safeParse([original, page]);
    const found = numbers.success ? await findPage(db, upload.id, ...numbers.data) : undefined;
    const { path, sha256, bytes } = found ?? {};
    if (!found || !path || !sha256 || !bytes) throw notFound(`page ${page} of original ${original}`);
    const disposition = pageDisposition(found, await findOriginal(db, upload.id, found.original));
    await sendStored(request, response, store, { path, sha256, bytes, type: 'image/png', disposition });
  });

  router.get('/uploads/:id/archive.zip', async (request, response) => {
    await sendArchive(request, response, { ...parts, room: archiveRoom }, await requestedUpload(request));
  });

  router.delete('/uploads/:id', async (request, response) => {
    const { id } = await requestedUpload(request);
    if (!(await deleteUpload(db, queues, id))) throw notFound(`upload ${id}`);
    await cache.invalidate();
    await store.removeFolder(uploadFolder(id)).catch((error) => {
      // It is gone for the client; what is left on disk is found as an orphan.
      log.error(
        { err: error, request: response.locals.requestId, upload: id },
        'files of a deleted upload left to the sweep',
      );
    });
    response.status(204).end();
  });

  return router;
}
