import { type Request, type Response, Router } from 'express';
import { cancelUpload } from '../../conversion/cancel-upload.ts';
import { deleteUpload } from '../../conversion/delete-upload.ts';
import { retryUpload } from '../../conversion/retry-upload.ts';
import type { Database } from '../../db/client.ts';
import type { Answer } from '../../db/idempotency.ts';
import type { Queues } from '../../db/queues.ts';
import type { Read } from '../../db/replica.ts';
import { findUploads, listOriginals, listSomePages, listUploads } from '../../db/uploads.ts';
import { listWebhooks } from '../../db/webhooks.ts';
import { isChanging } from '../../jobs/maintenance.ts';
import type { Config } from '../../runtime/config.ts';
import type { Logger } from '../../runtime/log.ts';
import { Quota } from '../../runtime/quota.ts';
import { uploadFolder } from '../../store/paths.ts';
import type { Store } from '../../store/store.ts';
import { createBatchLoader } from '../http/batch-loader.ts';
import { isVisible } from '../http/caller.ts';
import { fingerprintOf, idempotencyOf, idempotent, sendAnswer } from '../http/idempotency.ts';
import type { LongPoll } from '../http/long-poll.ts';
import { refuseOverload } from '../http/overload.ts';
import { pageOf } from '../http/pagination.ts';
import { invalid, notFound } from '../http/problem.ts';
import { callerOf, stateOf } from '../http/request-state.ts';
import { type StatusCache, type StatusDocument, uploadKey } from '../http/status-cache.ts';
import { parse } from '../http/validate.ts';
import { withParts } from '../http/with-parts.ts';
import type { QueueBounds } from '../jobs/queue-bounds.ts';
import { bytesReceived, uploadsAccepted } from '../operations/metrics.ts';
import { webhookPage } from '../webhooks/documents.ts';
import { webhookList } from '../webhooks/requests.ts';
import { type Guard, refuseForbidden } from '../webhooks/ssrf-guard.ts';
import { limitConcurrentUploads } from './concurrent-uploads.ts';
import { createUploads, type NewUpload } from './create.ts';
import { listedUpload, originalDocument, pageDocument, statusDocument } from './documents.ts';
import { sendOriginal, sendPage } from './downloads.ts';
import { type ReceivedUpload, receiveUpload } from './receive.ts';
import { readUpload, requestedId, requestedUpload, type UploadRequest } from './requested-upload.ts';
import { pageList, readPageCursor, uploadFields, uploadList, withoutEmptyFields, writePageCursor } from './requests.ts';
import { sendArchive } from './send-archive.ts';

/** Statuses that one query reads; each has about 1 KB. */
const MAX_STATUSES = 500;
/** Pages in all archives that are being sent; each takes about 1 KB of memory. */
const MAX_ARCHIVED_PAGES = 200_000;

interface UploadParts {
  db: Database;
  /** The same database, through a few connections for slow queries. */
  heavyDb: Database;
  read: Read;
  queues: Queues;
  bounds: QueueBounds;
  store: Store;
  guard: Guard;
  config: Config;
  log: Logger;
  cache: StatusCache;
  longPoll: LongPoll;
}

interface Parts extends UploadParts {
  createUpload(upload: NewUpload): Promise<Answer>;
  loadStatus(id: string): Promise<StatusDocument | undefined>;
  archiveRoom: Quota;
}

/** All calls below `/uploads`. */
export function uploadRoutes(parts: UploadParts): Router {
  const router = Router();
  const to = withParts<Parts>({
    ...parts,
    createUpload: createUploads(parts),
    loadStatus: createBatchLoader(MAX_STATUSES, (ids) => loadStatuses(parts.db, ids)),
    archiveRoom: new Quota({ name: 'archives', max: MAX_ARCHIVED_PAGES }),
  });
  const limitUploads = limitConcurrentUploads(parts.config.MAX_CONCURRENT_UPLOADS);
  router.post('/uploads', limitUploads, refuseOverload(parts), idempotent(parts), to(create));
  router.get('/uploads', to(list));
  router.get('/uploads/:id', to(get));
  router.delete('/uploads/:id', to(remove));
  router.get('/uploads/:id/status', to(status));
  router.post('/uploads/:id/cancel', to(cancel));
  router.post('/uploads/:id/retry', to(retry));
  router.get('/uploads/:id/pages', to(pages));
  router.get('/uploads/:id/pages/:original/:page.png', to(sendPage));
  router.get('/uploads/:id/originals', to(originals));
  router.get('/uploads/:id/originals/:original', to(sendOriginal));
  router.get('/uploads/:id/archive.zip', to(archive));
  router.get('/uploads/:id/webhooks', to(webhooks));
  return router;
}

async function create(parts: Parts, request: Request, response: Response): Promise<void> {
  const received = await receiveUpload(request, parts.store, parts.config.MAX_UPLOAD_MB * 2 ** 20);
  let upload: NewUpload;
  let known: Answer | undefined;
  try {
    upload = readNewUpload(parts.guard, request, received);
    known = upload.idempotency.known(upload.fingerprint);
  } catch (error) {
    await received.discard();
    throw error;
  }
  if (known !== undefined) {
    await received.discard();
    return sendAnswer(response, known);
  }
  const answer = await parts.createUpload(upload);
  uploadsAccepted.inc();
  bytesReceived.inc(received.files.reduce((sum, file) => sum + file.received.bytes, 0));
  sendAnswer(response, answer);
}

function readNewUpload(guard: Guard, request: Request, received: ReceivedUpload): NewUpload {
  const fields = parse(uploadFields, withoutEmptyFields(received.fields));
  refuseForbidden(guard, fields.notify_url);
  if (received.files.length === 0) throw invalid('file: missing; send at least one file in the field "file"');
  const sent = received.files.map(({ filename, received: { sha256 } }) => ({ filename, sha256 }));
  return {
    owner: callerOf(request).owner,
    traceparent: stateOf(request).traceparent,
    fields,
    received,
    idempotency: idempotencyOf(request),
    fingerprint: fingerprintOf({ fields: received.fields, sent }),
  };
}

async function list({ db, heavyDb, read }: Parts, request: Request, response: Response): Promise<void> {
  const { status, search, limit, cursor } = parse(uploadList, { ...request.query });
  const filter = { owner: callerOf(request).sees, status, search, limit: limit + 1, before: cursor };
  const found = await read((from) => listUploads(from, filter), search === undefined ? db : heavyDb);
  const { items, next_cursor } = pageOf(found, limit, ({ id }) => id);
  response.json({ items: items.map(listedUpload), next_cursor });
}

async function get({ db, longPoll }: Parts, request: UploadRequest, response: Response): Promise<void> {
  const { upload } = await longPoll.hold(request, response, uploadKey(requestedId(request)), async () => {
    const upload = await requestedUpload(db, request);
    return { upload, done: upload.finishedAt !== null };
  });
  response.json(await readUpload(db, upload));
}

async function remove({ db, queues, cache, store, log }: Parts, request: UploadRequest, response: Response) {
  const { id } = await requestedUpload(db, request);
  if (!(await deleteUpload(db, queues, id))) throw notFound(`upload ${id}`);
  await cache.invalidate();
  await store.removeFolder(uploadFolder(id)).catch((error) => {
    // The rows are deleted already, so retention removes the files as orphans.
    log.error({ err: error, request: stateOf(request).id, upload: id }, 'files of a deleted upload not removed yet');
  });
  response.status(204).end();
}

async function status({ cache, longPoll, loadStatus }: Parts, request: UploadRequest, response: Response) {
  const id = requestedId(request);
  const { body } = await longPoll.hold(request, response, uploadKey(id), async () => {
    const found = await cache.through(uploadKey(id), () => loadStatus(id));
    if (found === undefined || !isVisible(found, callerOf(request))) throw notFound(`upload ${id}`);
    return found;
  });
  response.json(body);
}

async function loadStatuses(db: Database, ids: string[]): Promise<Map<string, StatusDocument>> {
  // Read before the rows: otherwise the state before the last step of a change could be cached.
  const isStable = !(await isChanging(db));
  const found = await findUploads(db, ids);
  return new Map(
    found.map((upload) => {
      const body = statusDocument(upload);
      return [upload.id, { owner: upload.owner, done: body.done, isCacheable: body.done && isStable, body }];
    }),
  );
}

async function cancel({ db, queues }: Parts, request: UploadRequest, response: Response): Promise<void> {
  await cancelUpload(db, queues, (await requestedUpload(db, request)).id);
  response.json(await readUpload(db, await requestedUpload(db, request)));
}

async function retry({ db, queues, cache }: Parts, request: UploadRequest, response: Response): Promise<void> {
  await retryUpload(db, queues, (await requestedUpload(db, request)).id);
  await cache.invalidate();
  response.json(await readUpload(db, await requestedUpload(db, request)));
}

async function pages({ db, read }: Parts, request: UploadRequest, response: Response): Promise<void> {
  const { limit, cursor } = parse(pageList, { ...request.query });
  const { id, status } = await requestedUpload(db, request);
  const { items, next } = await read((from) => listSomePages(from, id, { limit, after: readPageCursor(cursor) }));
  response.json({ id, status, items: items.map(pageDocument), next_cursor: writePageCursor(next) });
}

async function originals({ db, read }: Parts, request: UploadRequest, response: Response): Promise<void> {
  const { id } = await requestedUpload(db, request);
  const items = await read((from) => listOriginals(from, id));
  response.json({ id, items: items.map(originalDocument) });
}

async function webhooks({ db }: Parts, request: UploadRequest, response: Response): Promise<void> {
  const { limit, cursor } = parse(webhookList, { ...request.query });
  const { id } = await requestedUpload(db, request);
  response.json(webhookPage(await listWebhooks(db, { uploadId: id }, { limit: limit + 1, after: cursor }), limit));
}

async function archive(parts: Parts, request: UploadRequest, response: Response): Promise<void> {
  await sendArchive(request, response, parts, await requestedUpload(parts.db, request));
}
