import { eq, sql } from 'drizzle-orm';
import { RejectedOutput } from '../../converter/files/rejected-output.ts';
import { PageRecorder } from '../../converter/page-recorder.ts';
import { openDatabase } from '../../db/client.ts';
import { type PageRange, pages, uploads } from '../../db/schema.ts';
import type { ClaimedJob } from '../../jobs/claim.ts';
import { createLogger } from '../../runtime/log.ts';
import { pagePath } from '../../store/paths.ts';
import { COMPLETED, completedPage, type JobsFixture, openJobsFixture } from '../jobs/fixture.ts';
import { startWay } from '../support/tcp-proxy.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

function record(job: ClaimedJob, { db = fixture.db, selected = [] as PageRange[] } = {}) {
  const calls = { published: [] as string[], discarded: [] as string[], lost: 0, broken: 0 };
  const recorder = new PageRecorder(
    {
      ...{ db, job, log: createLogger('silent', {}), stop: new AbortController().signal },
      discard: async (path) => calls.discarded.push(path),
      onLost: () => calls.lost++,
      onBroken: () => calls.broken++,
    },
    selected,
  );
  const page = (number: number) =>
    recorder.page(completedPage(number), async (report, path) => {
      calls.published.push(path);
      return { ...report, path, bytes: 1, sha256: '' };
    });
  return { recorder, page, calls };
}

async function start(pageCount: number) {
  const id = await fixture.upload();
  const job = await fixture.claimOne();
  const all = record(job);
  all.recorder.inspected({ pageCount, selected: [[1, pageCount]] });
  return { id, job, ...all };
}

test('pages that finish together are recorded in one transaction, each page once', async () => {
  const { id, job, recorder, page, calls } = await start(40);
  for (let number = 1; number <= 40; number++) page(number);
  expect(recorder.left).toEqual([]);
  await recorder.flush();
  const rows = await fixture.db.select({ page: pages.page }).from(pages).where(eq(pages.uploadId, id));
  expect(rows).toHaveLength(40);
  expect(calls.published).toHaveLength(40);
  const [upload] = await fixture.db.select().from(uploads).where(eq(uploads.id, id));
  expect(upload).toMatchObject({ pagesDone: 40, pagesTotal: 40 });
  const { rows: transactions } = await fixture.db.execute(
    sql`select count(distinct xact)::int as count from events where kind = 'page' and upload_id = ${id}`,
  );
  expect(transactions).toEqual([{ count: 1 }]);
  await fixture.settle(job, COMPLETED, null);
});

test('the first page is recorded before the others finish', async () => {
  const { id, job, recorder, page } = await start(2);
  page(1);
  while ((await fixture.db.$count(pages, eq(pages.uploadId, id))) === 0);
  page(2);
  await recorder.flush();
  expect(await fixture.db.$count(pages, eq(pages.uploadId, id))).toBe(2);
  await fixture.settle(job, COMPLETED, null);
});

test('a page that cannot be published removes the unrecorded pages of its batch', async () => {
  const { id, job, recorder, page, calls } = await start(2);
  page(1);
  recorder.page(completedPage(2), () => Promise.reject(new RejectedOutput('a page is not a PNG file')));
  await expect(recorder.flush()).rejects.toThrow('a page is not a PNG file');
  expect(calls.discarded).toEqual(calls.published);
  expect(await fixture.db.$count(pages, eq(pages.uploadId, id))).toBe(0);
  await fixture.settle(job, COMPLETED, null);
});

test('an attempt that no longer owns its job is marked as lost, and its page is removed', async () => {
  const { job, recorder, page, calls } = await start(1);
  await recorder.flush();
  await fixture.settle(job, COMPLETED, null);
  page(1);
  await recorder.flush();
  expect(calls.lost).toBe(1);
  expect(calls.discarded).toEqual([pagePath(job.uploadId ?? '', 1, 1, '1')]);
});

test('pages whose recording lost its answer keep their files when the job is lost before the retry', async () => {
  const way = await startWay(fixture.url);
  way.open();
  const database = await openDatabase(way.url, { name: 'test', log: fixture.log });
  const { id, job } = await start(1);
  const { recorder, page, calls } = record(job, { db: database.db, selected: [[1, 1]] });
  const unanswered = way.loseAnswer('insert into pages', 'insert into pages');
  page(1);
  await unanswered;
  way.close();
  await fixture.settle(job, { kind: 'returned' });
  way.open();
  await recorder.flush();
  expect(calls).toMatchObject({ lost: 1, discarded: [] });
  expect(await fixture.db.$count(pages, eq(pages.uploadId, id))).toBe(1);
  await database.close();
  await way.stop();
});
