import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Readable } from 'node:stream';
import sharp from 'sharp';
import { z } from 'zod';
import type { UploadTask } from '../../conversion/upload-task.ts';
import { type ExecutorParts, executeJob } from '../../converter/executor.ts';
import { PrivateFolder } from '../../converter/files/private-folder.ts';
import type { TaskEvent } from '../../converter/run-task.ts';
import { settleInBatches } from '../../converter/settle-in-batches.ts';
import type { RunOptions, RunOutcome, TaskRunner } from '../../converter/task-runner.ts';
import { listOriginals } from '../../db/uploads.ts';
import type { ClaimedJob } from '../../jobs/claim.ts';
import type { Config } from '../../runtime/config.ts';
import { openDiskStore } from '../../store/disk.ts';
import type { Store } from '../../store/store.ts';
import { completedPage, type JobsFixture, openJobsFixture } from '../jobs/fixture.ts';
import { override } from '../support/override.ts';

/** The options of a run, with its folder. */
type Sandboxed = RunOptions & { folder: PrivateFolder };

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

let root: string;
let store: Store;
beforeEach(async () => {
  root = await mkdtemp(path.join(tmpdir(), 'sheetmill-executor-'));
  store = await openDiskStore(path.join(root, 'store'));
  await store.receive(Readable.from([Buffer.from('PDF')]), () => 'a.pdf');
});
afterEach(async () => {
  expect((await readdir(root)).filter((name) => name !== 'store')).toEqual([]);
  await rm(root, { recursive: true });
});

const found: TaskEvent = { kind: 'inspected', found: { pageCount: 2, selected: [[1, 2]] } };

/** Reports a page with a PNG of this size. */
async function page(number: number, { onEvent, folder }: Sandboxed, size = { width: 10, height: 10 }) {
  const png = sharp({ create: { ...size, channels: 3, background: 'white' } }).png();
  await png.toFile(path.join(folder.output, `${number}.png`));
  onEvent({ kind: 'page', report: { ...completedPage(number), ...size } });
}
/** Folders removed from the store. */
let removed: string[] = [];
beforeEach(() => {
  removed = [];
});

/** Runs until it is aborted. */
const untilAborted = ({ signal }: RunOptions) =>
  new Promise<RunOutcome>((resolve) => {
    if (signal.aborted) resolve({ kind: 'aborted' });
    signal.addEventListener('abort', () => resolve({ kind: 'aborted' }));
  });

/** Reports a page, and runs until it is aborted. */
const reportPage = async (sandboxed: Sandboxed) => {
  sandboxed.onEvent(found);
  await page(1, sandboxed);
  return untilAborted(sandboxed);
};

/** Completes without a page. */
const complete = async (): Promise<RunOutcome> => ({ kind: 'completed', result: {} });

/** Executes the only ready job in a fake sandbox. */
async function execute(
  sandbox: (sandboxed: Sandboxed) => Promise<RunOutcome>,
  {
    reads,
    stop = new AbortController(),
    onClaim,
  }: { reads?: UploadTask['reads']; stop?: AbortController; onClaim?: (job: ClaimedJob) => Promise<unknown> } = {},
) {
  const task = {
    type: 'convert',
    payload: z.record(z.string(), z.unknown()),
    resources: { cpuUnits: 1, memoryMb: 256 },
    internal: true,
    run: async () => ({}),
    ...(reads && { reads }),
  } satisfies UploadTask;
  const folder = new PrivateFolder(root);
  const run: TaskRunner['run'] = async (prepare, options) => {
    await folder.begin();
    await prepare(folder);
    return { outcome: await sandbox({ ...options, folder }), step: null, spentSeconds: 0, peakMemoryMb: 7 };
  };
  let trusted = true;
  const distrust = () => {
    trusted = false;
  };
  const parts: ExecutorParts = {
    db: fixture.db,
    store: override(store, {
      async removeFolder(name) {
        removed.push(name);
        await store.removeFolder(name);
      },
    }),
    workFolder: root,
    tasks: new Map([['convert', task]]),
    settle: settleInBatches(fixture.db, fixture.queues),
    config: { MAX_PAGES: 10, MAX_PIXELS: 10 } as Config,
    log: fixture.log,
  };
  const job = await fixture.claimOne();
  await onClaim?.(job);
  const lost = new AbortController();
  await executeJob(parts, job, { runner: { run, distrust }, stop: stop.signal, lost, onWait: () => undefined });
  await folder.remove();
  return { job: await fixture.job(job.id).catch(() => undefined), lost: lost.signal.aborted, trusted };
}

const upload = () => fixture.upload(1, { payload: { path: 'a.pdf' } });

test('reported pages are recorded before the job is settled', async () => {
  const id = await upload();
  const { job } = await execute(async (sandboxed) => {
    sandboxed.onEvent(found);
    for (const number of [1, 2]) await page(number, sandboxed);
    return { kind: 'completed', result: { pages: 2 } };
  });
  expect(job).toMatchObject({ status: 'completed', result: { pages: 2 } });
  expect(await fixture.findUpload(id)).toMatchObject({ status: 'completed', pagesDone: 2, pagesTotal: 2 });
});

test('a recorded page has the size and hash of its file in the store', async () => {
  const id = await upload();
  await execute(async (sandboxed) => {
    sandboxed.onEvent({ kind: 'inspected', found: { pageCount: 1, selected: [[1, 1]] } });
    await page(1, sandboxed);
    return { kind: 'completed', result: {} };
  });
  const [row] = await fixture.pages(id);
  const bytes = await readFile(path.join(root, 'store', row?.path ?? ''));
  expect(row).toMatchObject({ bytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') });
});

test('a page that Postgres refuses aborts and fails only its attempt', async () => {
  await upload();
  const { job, lost, trusted } = await execute(async (sandboxed) => {
    sandboxed.onEvent(found);
    sandboxed.onEvent({
      kind: 'page',
      report: { page: 1, status: 'failed', error: { code: 'timeout', message: '\0' } },
    });
    return untilAborted(sandboxed);
  });
  expect(job).toMatchObject({ status: 'retrying', failures: 1, error: { code: 'internal' } });
  expect([lost, trusted]).toEqual([false, true]);
});

test('a rejected page aborts its attempt, fails its job, and ends the sandbox', async () => {
  const id = await upload();
  const { job, trusted } = await execute(async (sandboxed) => {
    sandboxed.onEvent(found);
    await page(1, sandboxed, { width: 3500, height: 10 });
    return untilAborted(sandboxed);
  });
  expect(job).toMatchObject({ status: 'failed', error: { code: 'corrupt_file' } });
  expect(trusted).toBe(false);
  expect(await fixture.findUpload(id)).toMatchObject({ status: 'failed', pagesDone: 0 });
});

test('a task whose `reads` throws fails only its attempt', async () => {
  await fixture.submit({ type: 'convert' });
  const reads = () => {
    throw new TypeError('no such upload');
  };
  const { job } = await execute(complete, { reads });
  expect(job).toMatchObject({ status: 'retrying', error: { code: 'internal' } });
  await fixture.passBackoff();
  const again = await execute(complete, { reads: () => 'a\0b' });
  expect(again.job).toMatchObject({ status: 'retrying', failures: 2, error: { code: 'internal' } });
});

test('a job that is returned to the queue is ready again, and has spent no attempt', async () => {
  await fixture.submit({ type: 'convert' });
  const stop = new AbortController();
  const { job } = await execute(
    (options) => {
      queueMicrotask(() => stop.abort());
      return untilAborted(options);
    },
    { stop },
  );
  expect(job).toMatchObject({ status: 'ready', failures: 0, attempt: 1 });
});

test('a task whose job was cancelled is aborted by its next page', async () => {
  const id = await upload();
  const { job, lost } = await execute(reportPage, { onClaim: ({ id: jobId }) => fixture.cancel(jobId) });
  expect([job?.status, lost]).toEqual(['cancelled', true]);
  expect(await fixture.pages(id)).toEqual([]);
  expect(removed).toEqual([]);
});

test.each([
  ['reports a page', reportPage],
  ['completes', complete],
])('a task whose upload was deleted when it %s leaves no file behind', async (_name, sandbox) => {
  const id = await upload();
  const { job } = await execute(sandbox, { onClaim: () => fixture.deleteUpload(id) });
  expect(job).toBeUndefined();
  expect(removed).toEqual([`uploads/${id}`]);
});

test('a task whose input upload is deleted fails permanently, and leaves no file behind', async () => {
  const id = await upload();
  await fixture.finishAll();
  for (const original of await listOriginals(fixture.db, id))
    await store.receive(Readable.from([Buffer.from('PDF')]), () => original.path);
  await fixture.submit({ type: 'convert' });
  const { job } = await execute(
    async () => {
      await fixture.deleteUpload(id);
      return { kind: 'completed', result: {} };
    },
    { reads: () => id },
  );
  expect(job).toMatchObject({ status: 'failed', error: { code: 'unknown_upload' }, result: null });
  expect(removed).toEqual([`uploads/${id}`]);
});

test('a job of an unknown type is returned to the queue with a delay, without an attempt', async () => {
  await fixture.submit({ type: 'from the next version' });
  const { job } = await execute(async () => {
    throw new Error('it ran');
  });
  expect(job).toMatchObject({ status: 'retrying', failures: 0, error: null, converterId: null });
  expect(job?.dueAt?.getTime()).toBeGreaterThan(Date.now() + 2_000);
  expect(await fixture.attempts(job?.id ?? '')).toMatchObject([{ status: 'returned', error: null }]);
});
