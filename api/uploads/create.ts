import type { z } from 'zod';
import { type ConvertPayload, convert, inspectionShape } from '../../conversion/tasks/convert.ts';
import type { Database, Transaction } from '../../db/client.ts';
import type { Answer } from '../../db/idempotency.ts';
import { inGroups } from '../../db/in-groups.ts';
import { isOutage } from '../../db/postgres-errors.ts';
import type { Queues } from '../../db/queues.ts';
import { insertUploads, type Original } from '../../db/uploads.ts';
import { largestClass } from '../../jobs/capacity.ts';
import type { Shape } from '../../jobs/shape.ts';
import { type NewJob, submitJobs } from '../../jobs/submit.ts';
import { transition } from '../../jobs/transition.ts';
import { uploadFolder } from '../../store/paths.ts';
import type { Store } from '../../store/store.ts';
import { keepForKeys } from '../http/idempotency.ts';
import type { Idempotency } from '../http/request-state.ts';
import { runForAll } from '../http/requester.ts';
import { shareFor } from '../http/share.ts';
import { uploadDocument } from './documents.ts';
import type { ReceivedUpload } from './receive.ts';
import type { uploadFields } from './requests.ts';

/** The maximum of uploads in one transaction. An upload has at most 20 originals, and short fields. */
const MAX_GROUP = 32;
const CAPACITY_CACHE_MS = 1_000;

/** An upload whose files are in the store, and whose rows are not stored yet. */
export interface NewUpload {
  owner: string | null;
  traceparent: string | null;
  fields: z.output<typeof uploadFields>;
  received: Pick<ReceivedUpload, 'id' | 'files'>;
  idempotency: Idempotency;
  fingerprint: string;
}

interface Entry {
  upload: NewUpload;
  /** True once COMMIT may have been sent. */
  isCommitting: boolean;
}

/**
 * Gives a function that stores an upload, its originals, one `convert` job for each original, and the answer for its
 * Idempotency-Key in one transaction, which concurrent uploads share. When it rejects, no row is stored and the files are
 * removed, unless the result of the commit is unknown.
 */
export function createUploads({ db, queues, store }: { db: Database; queues: Queues; store: Store }) {
  const readLargestClass = shareFor(CAPACITY_CACHE_MS, () => largestClass(db));

  const write = inGroups(MAX_GROUP, async (group: Entry[]) => {
    const setCommitting = (isCommitting: boolean) => {
      for (const entry of group) entry.isCommitting = isCommitting;
    };
    setCommitting(false);
    const maxMemoryMb = await readLargestClass();
    return transition(db, async (tx) => {
      setCommitting(false);
      const answers = await storeUploads(
        tx,
        queues,
        group.map(({ upload }) => upload),
        maxMemoryMb,
      );
      setCommitting(true);
      return answers;
    });
  });

  return async function createUpload(upload: NewUpload): Promise<Answer> {
    const entry: Entry = { upload, isCommitting: false };
    try {
      return await runForAll(() => write(entry));
    } catch (error) {
      // A commit without an answer may still take effect. If it does not, retention removes the files as orphans.
      if (!(entry.isCommitting && isOutage(error))) await store.removeFolder(uploadFolder(upload.received.id));
      throw error;
    }
  };
}

/** Gives the answers in the order of the uploads. A job reserves at most `maxMemoryMb`. */
async function storeUploads(
  tx: Transaction,
  queues: Queues,
  group: NewUpload[],
  maxMemoryMb: number,
): Promise<Answer[]> {
  const rows = group.map(originalsOf);
  const stored = await insertUploads(tx, group.map(uploadRow), rows.flat());
  const uploads = new Map(stored.map((upload) => [upload.id, upload]));
  await submitJobs(
    tx,
    queues,
    group.flatMap((upload, index) =>
      (rows[index] ?? []).map((original) => conversionOf(upload, original, maxMemoryMb)),
    ),
  );
  const answered = group.map(({ received: { id }, idempotency, fingerprint }, index) => {
    const upload = uploads.get(id);
    if (upload === undefined) throw new Error(`upload ${id} was not stored`);
    const body = uploadDocument(upload, rows[index] ?? []);
    return { idempotency, fingerprint, answer: { status: 200, location: `/uploads/${id}`, body } };
  });
  await keepForKeys(tx, answered);
  return answered.map(({ answer }) => answer);
}

function uploadRow({ owner, fields, received: { id } }: NewUpload) {
  return {
    id,
    owner,
    priority: fields.priority,
    dpi: fields.dpi,
    pageSelection: fields.pages ?? null,
    engine: fields.engine ?? null,
    password: fields.password ?? null,
    expiresAt: fields.expires_at ?? null,
    notifyUrl: fields.notify_url ?? null,
  };
}

function originalsOf({ received: { id, files } }: NewUpload): Original[] {
  return files.map(({ original, filename, mediaType, received: { path, bytes, sha256 } }) => ({
    uploadId: id,
    original,
    filename,
    mediaType,
    bytes,
    sha256,
    path,
    pageCount: null,
    selected: null,
    error: null,
  }));
}

function conversionOf({ owner, traceparent, fields }: NewUpload, original: Original, maxMemoryMb: number): NewJob {
  return {
    type: convert.type,
    priority: fields.priority,
    shape: shapeOf(original, maxMemoryMb),
    owner,
    traceparent,
    uploadId: original.uploadId,
    original: original.original,
    payload: {
      upload_id: original.uploadId,
      original: original.original,
      path: original.path,
      media_type: original.mediaType,
      dpi: fields.dpi,
      page_selection: fields.pages ?? null,
      spent_seconds: 0,
      engine: fields.engine ?? null,
    } satisfies ConvertPayload,
  };
}

function shapeOf({ mediaType, bytes }: Original, maxMemoryMb: number): Shape {
  const shape = inspectionShape(mediaType, bytes);
  return { ...shape, memoryMb: Math.min(shape.memoryMb, maxMemoryMb) };
}
