import { randomUUID } from 'node:crypto';
import { desc, eq } from 'drizzle-orm';
import { recordInspection, recordPages } from '../../conversion/record-pages.ts';
import { converters, jobs } from '../../db/schema.ts';
import type { Outcome } from '../../jobs/settle.ts';
import { COMPLETED, completedPage, FAILED, type JobsFixture, openJobsFixture, range } from './fixture.ts';

let fixture: JobsFixture;
/** The only converter, of 512 MB. */
let converter: { id: string; name: string };
beforeAll(async () => {
  fixture = await openJobsFixture();
});
beforeEach(async () => {
  converter = { id: randomUUID(), name: 'host-1' };
  await fixture.db.insert(converters).values({ ...converter, cpuUnits: 100, memoryMb: 600 });
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const error = { code: 'out_of_memory' as const, message: 'page 2 needs more than the 256 MB reserved' };
const OUTGROWN: Outcome = { kind: 'outgrown', error, spent: false };

test('a job that outgrows its reservation runs again at once with the next class, without a failure', async () => {
  const [id = ''] = await fixture.submit({ maxAttempts: 1 });
  await fixture.settle(await fixture.claimOne(converter), OUTGROWN, 260);
  expect(await fixture.job(id)).toMatchObject({ status: 'ready', memoryMb: 384, failures: 0 });
  expect(await fixture.attempts(id)).toMatchObject([{ status: 'failed', memoryMb: 256, peakMemoryMb: 260, error }]);
  await fixture.settle(await fixture.claimOne(converter), OUTGROWN);
  expect(await fixture.job(id)).toMatchObject({ status: 'ready', memoryMb: 512 });
  await fixture.settle(await fixture.claimOne(converter), COMPLETED);
  expect(await fixture.job(id)).toMatchObject({ status: 'completed', memoryMb: 512, attempt: 3 });
});

test('a job that outgrows the largest converter fails, with its memory and the maximum', async () => {
  const [id = ''] = await fixture.submit({ shape: { cpuUnits: 1, memoryMb: 512 } });
  await fixture.settle(await fixture.claimOne(converter), OUTGROWN);
  const message = `${error.message}; it had 512 MB, and no converter allows more than 512 MB`;
  expect(await fixture.job(id)).toMatchObject({ status: 'failed', error: { code: 'out_of_memory', message } });
});

test("a client's task that outgrows its reservation counts a failure, and gets the next class", async () => {
  const [id = ''] = await fixture.submit({ maxAttempts: 3, shape: { cpuUnits: 1, memoryMb: 384 } });
  const spent: Outcome = { ...OUTGROWN, spent: true };
  for (const memoryMb of [512, 512]) {
    await fixture.settle(await fixture.claimOne(converter), spent);
    expect(await fixture.job(id)).toMatchObject({ status: 'retrying', memoryMb });
    await fixture.passBackoff();
  }
  await fixture.settle(await fixture.claimOne(converter), spent);
  expect(await fixture.job(id)).toMatchObject({ status: 'failed', failures: 3, error: { code: 'out_of_memory' } });
});

test('parts of a split job reserve no more than the largest converter has', async () => {
  const [id = ''] = await fixture.submit({ type: 'convert' });
  const huge = { ...range([1, 1]), shape: { cpuUnits: 1, memoryMb: 16_384 } };
  await fixture.settle(await fixture.claimOne(converter), { kind: 'split', children: [huge] });
  const child = await fixture.claimOne(converter);
  expect(child.memoryMb).toBe(512);
  await fixture.settle(child, COMPLETED);
  expect(await fixture.statuses(id)).toEqual(['completed']);
});

describe('a page that kills the sandbox of its range', () => {
  const alone = { ...range([2, 2]), shape: { cpuUnits: 1, memoryMb: 384 } };

  /** Splits a range of four pages, whose second page killed the sandbox, into two more children of the same parent. */
  async function splitAgain() {
    const uploadId = await fixture.upload();
    const parent = await fixture.claimOne(converter);
    await recordInspection(fixture.db, parent, { pageCount: 4, selected: [[1, 4]] });
    await fixture.settle(parent, { kind: 'split', children: [range([1, 4])] });
    const attempt = await fixture.claimOne(converter);
    await recordPages(fixture.db, attempt, [completedPage(1)]);
    await fixture.settle(attempt, { kind: 'split', children: [range([3, 4]), alone], error });
    return { uploadId, parentId: parent.id, rangeId: attempt.id };
  }

  test('becomes one part, and the other pages another', async () => {
    const { parentId, rangeId } = await splitAgain();
    expect(await fixture.job(rangeId)).toMatchObject({ status: 'completed', result: { parts: 2 } });
    expect(await fixture.attempts(rangeId)).toMatchObject([{ status: 'failed', error }]);
    expect(await fixture.job(parentId)).toMatchObject({ status: 'running', pendingChildren: 2 });
    const parts = await fixture.db.select().from(jobs).where(eq(jobs.parentId, parentId)).orderBy(desc(jobs.arrivedAt));
    expect(parts.filter(({ status }) => status === 'ready')).toMatchObject([
      { payload: alone.payload, memoryMb: 384, attempt: 1 },
      { payload: { pages: [[3, 4]] }, memoryMb: 256, attempt: 1 },
    ]);
  });

  test('fails alone if it fails permanently, and its upload keeps the others', async () => {
    const { uploadId, parentId } = await splitAgain();
    for (const attempt of await fixture.claim(converter)) {
      const numbers = attempt.memoryMb === 384 ? [] : [3, 4];
      for (const page of numbers) await recordPages(fixture.db, attempt, [completedPage(page)]);
      await fixture.settle(
        attempt,
        numbers.length > 0 ? COMPLETED : { ...FAILED, kind: 'failed', error, retryable: false },
      );
    }
    expect(await fixture.statuses(parentId)).toEqual(['failed']);
    expect((await fixture.pages(uploadId)).map(({ page, status }) => [page, status])).toEqual([
      [1, 'completed'],
      [2, 'failed'],
      [3, 'completed'],
      [4, 'completed'],
    ]);
    expect(await fixture.findUpload(uploadId)).toMatchObject({ status: 'failed', error: { code: 'out_of_memory' } });
    await fixture.retry(parentId);
    const again = await fixture.claimOne(converter);
    expect(again.payload).toEqual(alone.payload);
    await recordPages(fixture.db, again, [completedPage(2)]);
    await fixture.settle(again, COMPLETED);
    expect(await fixture.findUpload(uploadId)).toMatchObject({ status: 'completed', pagesDone: 4 });
  });

  test('ends with its siblings when their parent is cancelled', async () => {
    const { parentId, uploadId } = await splitAgain();
    await fixture.cancel(parentId);
    expect(await fixture.claim(converter)).toEqual([]);
    expect(await fixture.findUpload(uploadId)).toMatchObject({ status: 'cancelled' });
  });

  test('adds no child to a parent that was cancelled meanwhile', async () => {
    await fixture.upload();
    const parent = await fixture.claimOne(converter);
    await fixture.settle(parent, { kind: 'split', children: [range([1, 4])] });
    const attempt = await fixture.claimOne(converter);
    await fixture.cancel(parent.id);
    expect(await fixture.settle(attempt, { kind: 'split', children: [alone], error })).toBe(false);
    expect(await fixture.claim(converter)).toEqual([]);
  });
});
