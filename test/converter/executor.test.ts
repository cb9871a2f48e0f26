import { z } from 'zod';
import type { Config } from '../../config.ts';
import { type ExecutorParts, executeJob } from '../../converter/executor.ts';
import type { TaskEvent } from '../../converter/run-task.ts';
import type { Lease } from '../../converter/sandbox/pool.ts';
import type { RunOptions, RunOutcome } from '../../converter/sandbox/run.ts';
import { createSettler } from '../../converter/settler.ts';
import type { ClaimedJob } from '../../jobs/claim.ts';
import { pagePath } from '../../store/paths.ts';
import type { Store } from '../../store/store.ts';
import type { Task } from '../../tasks/task.ts';
import { completedPage, type JobsFixture, openJobsFixture } from '../jobs/fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

/** The job that is being executed. */
let claimed: ClaimedJob;
function page(number: number, more = {}): TaskEvent {
  const { uploadId, original, attempt } = claimed;
  const path = pagePath(uploadId ?? '', original ?? 0, number, String(attempt));
  return { kind: 'page', outcome: { ...completedPage(number), path, ...more } } as TaskEvent;
}
/** Folders that were removed from the store. */
let removed: string[] = [];
beforeEach(() => {
  removed = [];
});

/** A sandbox that goes on until it is told to end. */
const untilAborted = ({ signal }: RunOptions) =>
  new Promise<RunOutcome>((resolve) => signal.addEventListener('abort', () => resolve({ kind: 'aborted' })));

/** One that makes a page first. */
const tellOfPage = (options: RunOptions) => {
  options.onEvent(page(1));
  return untilAborted(options);
};

/** Executes the only ready job with a sandbox that does this. */
async function execute(
  sandbox: (options: RunOptions) => Promise<RunOutcome>,
  {
    reads,
    stop = new AbortController(),
    onClaim,
  }: { reads?: Task['reads']; stop?: AbortController; onClaim?: (job: ClaimedJob) => Promise<unknown> } = {},
) {
  const task = {
    type: 'convert',
    payload: z.record(z.string(), z.unknown()),
    resources: { cpuUnits: 1, memoryMb: 256 },
    run: async () => ({}),
    ...(reads && { reads }),
  } as Task;
  const run: Lease['run'] = async (_request, options) => ({
    outcome: await sandbox(options),
    step: null,
    spentSeconds: 0,
    peakMemoryMb: 7,
  });
  const parts: ExecutorParts = {
    db: fixture.db,
    store: {
      workspace: async () => ({
        output: '/store',
        input: async (storePath: string) => `/store/${storePath}`,
        publish: async () => undefined,
        publishAll: async () => undefined,
        close: async () => undefined,
      }),
      removeFolder: async (folder: string) => {
        removed.push(folder);
      },
    } as Partial<Store> as Store,
    tasks: new Map([['convert', task]]),
    settle: createSettler(fixture.db, fixture.queues),
    config: { MAX_PAGES: 10, MAX_PIXELS: 10 } as Config,
    log: fixture.log,
  };
  const job = await fixture.claimOne();
  claimed = job;
  await onClaim?.(job);
  const lost = new AbortController();
  await executeJob(parts, job, { sandbox: { run }, stop: stop.signal, lost, onWait: () => undefined });
  return { job: await fixture.job(job.id).catch(() => undefined), lost: lost.signal.aborted };
}

const upload = () => fixture.upload(1, { payload: { path: 'a.pdf' } });

test('what a task tells of its pages is recorded before its job is settled', async () => {
  const id = await upload();
  const { job } = await execute(async ({ onEvent }) => {
    onEvent({ kind: 'inspected', found: { pageCount: 2, selected: [[1, 2]] } });
    for (const number of [1, 2]) onEvent(page(number));
    return { kind: 'completed', result: { pages: 2 } };
  });
  expect(job).toMatchObject({ status: 'completed', result: { pages: 2 } });
  expect(await fixture.findUpload(id)).toMatchObject({ status: 'completed', pagesDone: 2, pagesTotal: 2 });
});

test('a page that Postgres refuses aborts and fails its attempt, and nothing else', async () => {
  await upload();
  const { job, lost } = await execute((options) => {
    options.onEvent(page(1, { width: 4_000 }));
    options.onEvent(page(2));
    return untilAborted(options);
  });
  expect(job).toMatchObject({ status: 'retrying', failures: 1, error: { code: 'internal' } });
  expect(lost).toBe(false);
});

test('a page at a path that is not its own fails its attempt, and no row tells of it', async () => {
  const id = await upload();
  const { job } = await execute((options) => {
    options.onEvent(page(1, { path: `uploads/${id}/pages/../../../secret` }));
    return untilAborted(options);
  });
  expect(job).toMatchObject({ status: 'retrying', failures: 1, error: { code: 'internal' } });
  expect(await fixture.findUpload(id)).toMatchObject({ pagesDone: 0 });
});

test('a task that cannot say what it reads fails its attempt, and nothing else', async () => {
  await fixture.submit({ type: 'convert' });
  const reads = () => {
    throw new TypeError('no such upload');
  };
  const { job } = await execute(async () => ({ kind: 'completed', result: {} }), { reads });
  expect(job).toMatchObject({ status: 'retrying', error: { code: 'internal' } });
  await fixture.passBackoff();
  // Not the id of an upload, either.
  const again = await execute(async () => ({ kind: 'completed', result: {} }), { reads: () => 'a\0b' });
  expect(again.job).toMatchObject({ status: 'retrying', failures: 2, error: { code: 'internal' } });
});

test('a job that the converter hands back is ready again, unspent', async () => {
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

test('a task whose job was cancelled is aborted by the first page that is no longer wanted', async () => {
  const id = await upload();
  const { job, lost } = await execute(tellOfPage, { onClaim: ({ id: jobId }) => fixture.cancel(jobId) });
  expect([job?.status, lost]).toEqual(['cancelled', true]);
  expect(await fixture.pages(id)).toEqual([]);
  expect(removed).toEqual([]);
});

test.each([
  ['tells of a page', tellOfPage],
  ['completes', async () => ({ kind: 'completed', result: {} }) as const],
])('a task whose upload was deleted when it %s leaves no file behind', async (_name, sandbox) => {
  const id = await upload();
  const { job } = await execute(sandbox, { onClaim: () => fixture.deleteUpload(id) });
  expect(job).toBeUndefined();
  expect(removed).toEqual([`uploads/${id}`]);
});

test('a task that reads an upload fails for good when that is deleted, and leaves no file behind', async () => {
  const id = await upload();
  await fixture.finishAll();
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

test('a job of a type that is unknown here is handed back for a while, unspent and without being run', async () => {
  await fixture.submit({ type: 'of the next version' });
  const { job } = await execute(async () => {
    throw new Error('it ran');
  });
  expect(job).toMatchObject({ status: 'retrying', failures: 0, error: null, converterId: null });
  expect(job?.dueAt?.getTime()).toBeGreaterThan(Date.now() + 2_000);
  expect(await fixture.attempts(job?.id ?? '')).toMatchObject([{ status: 'returned', error: null }]);
});
