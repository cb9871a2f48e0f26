import { eq, sql } from 'drizzle-orm';
import { recordInspection, recordPages, settledPages } from '../../conversion/record-pages.ts';
import { originals, pages, uploads } from '../../db/schema.ts';
import type { Outcome } from '../../jobs/settle.ts';
import {
  COMPLETED,
  completedPage,
  FAILED,
  FAILED_PERMANENTLY,
  type JobsFixture,
  openJobsFixture,
  range,
} from '../jobs/fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
  // A trigger counts the ends of each upload.
  await fixture.db.execute(sql`create table upload_ends (id uuid)`);
  await fixture.db.execute(sql`create function mark_end() returns trigger language plpgsql as
    $$ begin insert into upload_ends values (new.id); return null; end $$`);
  await fixture.db.execute(sql`create trigger mark_end after update on uploads for each row
    when (new.finished_at is not null) execute function mark_end()`);
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

type Attempt = Awaited<ReturnType<JobsFixture['claimOne']>>;

function end(attempt: Attempt, outcome: Outcome): Promise<boolean> {
  return fixture.settle(attempt, outcome, null);
}

function inspected(attempt: Attempt, pageCount: number, selected: [number, number][] = [[1, pageCount]]) {
  return recordInspection(fixture.db, attempt, { pageCount, selected });
}

async function endsOf(uploadId: string): Promise<number> {
  const { rows } = await fixture.db.execute(sql`select count(*)::int as count from upload_ends where id = ${uploadId}`);
  return rows[0]?.count as number;
}

test('an upload completes with its last page, and its password is deleted', async () => {
  const id = await fixture.upload();
  const job = await fixture.claimOne();
  await inspected(job, 2);
  expect(await fixture.findUpload(id)).toMatchObject({ pagesDone: 0, pagesTotal: 2, password: 'a secret' });
  await recordPages(fixture.db, job, [completedPage(1)]);
  expect(await fixture.findUpload(id)).toMatchObject({ status: 'processing', pagesDone: 1, finishedAt: null });
  await recordPages(fixture.db, job, [completedPage(2)]);
  await end(job, COMPLETED);
  expect(await fixture.findUpload(id)).toMatchObject({
    status: 'completed',
    pagesDone: 2,
    pagesTotal: 2,
    password: null,
    error: null,
    finishedAt: expect.any(Date),
  });
});

test('a page is recorded with its note', async () => {
  const id = await fixture.upload();
  const job = await fixture.claimOne();
  await inspected(job, 1);
  const note = 'pdfium: the page is damaged';
  await recordPages(fixture.db, job, [{ ...completedPage(1), note } as never]);
  await end(job, COMPLETED);
  expect(await fixture.db.select({ note: pages.note }).from(pages).where(eq(pages.uploadId, id))).toEqual([{ note }]);
});

test('the page total is unknown until every original was inspected', async () => {
  const id = await fixture.upload(2);
  const [first, second] = (await fixture.claim()) as [Attempt, Attempt];
  await inspected(first, 7, [
    [1, 2],
    [5, 5],
  ]);
  expect(await fixture.findUpload(id)).toMatchObject({ pagesTotal: null });
  await inspected(second, 4);
  expect(await fixture.findUpload(id)).toMatchObject({ pagesTotal: 7 });
});

test('two originals that are inspected at the same time are both counted', async () => {
  for (let round = 0; round < 10; round++) {
    const id = await fixture.upload(2);
    const attempts = await fixture.claimApart();
    await Promise.all(attempts.map((attempt) => inspected(attempt, 3)));
    expect(await fixture.findUpload(id)).toMatchObject({ pagesTotal: 6 });
  }
});

test.each(['before', 'after'])(
  'the page total is known when an original fails %s the other was inspected',
  async (when) => {
    const id = await fixture.upload(2);
    const [good, bad] = (await fixture.claim()) as [Attempt, Attempt];
    if (when === 'before') await end(bad, FAILED_PERMANENTLY);
    await inspected(good, 3);
    if (when === 'after') await end(bad, FAILED_PERMANENTLY);
    expect(await fixture.findUpload(id)).toMatchObject({ pagesTotal: 3 });
  },
);

test('a page that is recorded twice counts once, and stays as it was', async () => {
  const id = await fixture.upload();
  const first = await fixture.claimOne();
  await inspected(first, 2);
  expect(await recordPages(fixture.db, first, [completedPage(1)])).toBe(true);
  await end(first, FAILED);
  await fixture.passBackoff();
  const second = await fixture.claimOne();
  expect(await settledPages(fixture.db, id, 1)).toEqual([1]);
  expect(await recordPages(fixture.db, second, [{ ...completedPage(1), path: 'another.png' } as never])).toBe(true);
  await recordPages(fixture.db, second, [completedPage(2)]);
  await end(second, COMPLETED);
  expect(await fixture.findUpload(id)).toMatchObject({ status: 'completed', pagesDone: 2 });
  expect((await fixture.pages(id)).map(({ path }) => path)).toEqual(['a/1.png', 'a/2.png']);
});

test('pages of one upload that are ready at the same time are all counted', async () => {
  const id = await fixture.upload();
  const parent = await fixture.claimOne();
  await inspected(parent, 40);
  await end(parent, { kind: 'split', children: [range([1, 10]), range([11, 20]), range([21, 30]), range([31, 40])] });
  const children = await fixture.claimApart();
  await Promise.all(
    children.map(async (child, index) => {
      for (let page = 1; page <= 10; page++) await recordPages(fixture.db, child, [completedPage(index * 10 + page)]);
      await end(child, COMPLETED);
    }),
  );
  expect(await fixture.findUpload(id)).toMatchObject({ status: 'completed', pagesDone: 40, pagesTotal: 40 });
  expect(await fixture.pages(id)).toHaveLength(40);
});

test('a late attempt records nothing', async () => {
  const id = await fixture.upload();
  const late = await fixture.claimOne();
  await end(late, { kind: 'failed', error: { code: 'converter_lost', message: 'gone' }, retryable: true });
  async function expectNoEffect() {
    expect(await inspected(late, 5)).toBe(false);
    expect(await recordPages(fixture.db, late, [completedPage(1)])).toBe(false);
    expect(await fixture.pages(id)).toEqual([]);
    expect(await fixture.findUpload(id)).toMatchObject({ pagesDone: 0, pagesTotal: null });
  }
  await expectNoEffect();
  await fixture.passBackoff();
  const second = await fixture.claimOne();
  await expectNoEffect();
  await inspected(second, 0);
  await end(second, COMPLETED);
  expect(await recordPages(fixture.db, late, [completedPage(1)])).toBe(false);
});

test('a failed range fails exactly its remaining pages', async () => {
  const id = await fixture.upload();
  const parent = await fixture.claimOne();
  await inspected(parent, 9);
  await end(parent, {
    kind: 'split',
    children: [range([1, 3]), range([4, 5], [7, 8])],
  });
  const [good, bad] = (await fixture.claim()) as [Attempt, Attempt];
  await recordPages(fixture.db, bad, [completedPage(5)]);
  await end(bad, FAILED_PERMANENTLY);
  expect((await fixture.pages(id)).map(({ page, status }) => [page, status])).toEqual([
    [4, 'failed'],
    [5, 'completed'],
    [7, 'failed'],
    [8, 'failed'],
  ]);
  for (const page of [1, 2, 3]) await recordPages(fixture.db, good, [completedPage(page)]);
  await end(good, COMPLETED);
  expect(await fixture.findUpload(id)).toMatchObject({
    status: 'failed',
    pagesDone: 4,
    error: { code: 'corrupt_file', message: expect.stringMatching(/^original 1, page 4: /) },
  });
  expect(await fixture.db.select({ error: originals.error }).from(originals)).toEqual([{ error: null }]);
});

test('an original that fails after its inspection fails its missing pages', async () => {
  const id = await fixture.upload();
  const job = await fixture.claimOne();
  await inspected(job, 9, [
    [2, 3],
    [7, 7],
  ]);
  await recordPages(fixture.db, job, [completedPage(2)]);
  await end(job, FAILED_PERMANENTLY);
  expect((await fixture.pages(id)).map(({ page, status, error }) => [page, status, error?.code])).toEqual([
    [2, 'completed', undefined],
    [3, 'failed', 'corrupt_file'],
    [7, 'failed', 'corrupt_file'],
  ]);
  expect(await fixture.findUpload(id)).toMatchObject({
    status: 'failed',
    pagesDone: 1,
    error: { code: 'corrupt_file' },
  });
});

test('an original that fails does not stop the others, and the upload fails when all have ended', async () => {
  const id = await fixture.upload(3);
  const [first, second, third] = (await fixture.claim()) as [Attempt, Attempt, Attempt];
  await end(second, FAILED_PERMANENTLY);
  expect(await fixture.findUpload(id)).toMatchObject({ status: 'processing', password: 'a secret' });
  for (const job of [first, third]) {
    await inspected(job, 1);
    await recordPages(fixture.db, job, [completedPage(1)]);
    await end(job, COMPLETED);
  }
  expect(await fixture.findUpload(id)).toMatchObject({
    status: 'failed',
    pagesDone: 2,
    password: null,
    error: FAILED_PERMANENTLY.error,
  });
});

test('two last jobs of an upload that settle at the same time end it exactly once', async () => {
  for (let round = 0; round < 20; round++) {
    const id = await fixture.upload(2);
    const attempts = await fixture.claimApart();
    await Promise.all(attempts.map((attempt) => end(attempt, COMPLETED)));
    expect([(await fixture.findUpload(id)).status, await endsOf(id)]).toEqual(['completed', 1]);
  }
});

test('the last ranges of several originals that settle at the same time end the upload exactly once', async () => {
  for (let round = 0; round < 20; round++) {
    const id = await fixture.upload(2);
    for (const parent of await fixture.claim()) {
      await end(parent, { kind: 'split', children: [range([1, 1]), range([2, 2])] });
    }
    const ranges = await fixture.claimApart();
    expect(ranges).toHaveLength(4);
    await Promise.all(ranges.map((attempt) => end(attempt, COMPLETED)));
    expect([(await fixture.findUpload(id)).status, await endsOf(id)]).toEqual(['completed', 1]);
  }
});

test('originals that fail at the same time do not block each other', async () => {
  // Postgres detects deadlocks after a second, so that a faster round has none.
  for (let round = 0; round < 20; round++) {
    const id = await fixture.upload(4);
    const attempts = await fixture.claimApart();
    for (const attempt of attempts) await inspected(attempt, 3);
    const began = Date.now();
    await Promise.all(attempts.map((attempt) => end(attempt, FAILED_PERMANENTLY)));
    expect(Date.now() - began).toBeLessThan(1_000);
    expect([(await fixture.findUpload(id)).status, await endsOf(id)]).toEqual(['failed', 1]);
    expect(await fixture.pages(id)).toHaveLength(12);
  }
});

test('a late attempt of a deleted upload records nothing', async () => {
  const id = await fixture.upload();
  const job = await fixture.claimOne();
  await end(job, COMPLETED);
  await fixture.db.delete(uploads).where(eq(uploads.id, id));
  expect(await recordPages(fixture.db, job, [completedPage(1)])).toBe(false);
  expect(await end(job, COMPLETED)).toBe(false);
});
