import { sql } from 'drizzle-orm';
import { recordInspection, recordPages, settledPages } from '../../conversion/record-pages.ts';
import type { ClaimedJob } from '../../jobs/claim.ts';
import { sendDueJobs } from '../../jobs/due-jobs.ts';
import type { Outcome } from '../../jobs/settle.ts';
import { COMPLETED, completedPage, FAILED, type JobsFixture, openJobsFixture, range } from '../jobs/fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterAll(() => fixture.close());

const UPLOADS = 12;
const ORIGINALS = 2;
const RANGES = [range([1, 3]), range([4, 6])];
const ENDED = ['completed', 'failed', 'cancelled'];

/** Runs a fake task that inspects and splits, or converts a range. The first two attempts may fail or be returned. */
async function play(job: ClaimedJob, chance: () => number): Promise<void> {
  const { db } = fixture;
  const end = (outcome: Outcome) => fixture.settle(job, outcome);
  const happens = (probability: number) => job.attempt < 3 && chance() < probability;
  if (happens(0.2)) await end({ kind: 'returned' });
  if (happens(0.2)) await end(FAILED);
  if (job.type === 'convert') {
    await recordInspection(db, job, { pageCount: 6, selected: [[1, 6]] });
    await end({ kind: 'split', children: RANGES });
    return;
  }
  const { pages } = job.payload as { pages: [number, number][] };
  const settled = await settledPages(db, job.uploadId as string, job.original as number);
  for (const [from, to] of pages) {
    for (let page = from; page <= to; page++) {
      if (settled.includes(page)) continue;
      await recordPages(db, job, [completedPage(page)]);
      if (happens(0.1)) await end(FAILED);
    }
  }
  await Promise.all([end(COMPLETED), end(COMPLETED)]);
}

/** A repeatable stream of numbers between 0 and 1. */
function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1_664_525 + 1_013_904_223) % 2 ** 32;
    return state / 2 ** 32;
  };
}

test('many concurrent uploads, converters and failures record every page once and leave no work', async () => {
  const ids = await Promise.all(Array.from({ length: UPLOADS }, () => fixture.upload(ORIGINALS)));
  const uploads = () => Promise.all(ids.map((id) => fixture.findUpload(id)));
  const isOver = async () => (await uploads()).every(({ status }) => ENDED.includes(status));

  const converterAtWork = async (seed: number) => {
    const converter = await fixture.converter();
    const chance = seeded(seed);
    while (!(await isOver())) {
      // No converter is lost on a slow machine.
      await fixture.db.execute(sql`update converters set heartbeat_at = now()`);
      for (const job of await fixture.claim(converter)) await play(job, chance);
      // Skips the backoff.
      await fixture.db.execute(sql`update jobs set due_at = now() where status = 'retrying'`);
      await sendDueJobs(fixture.db, fixture.queues);
      await fixture.maintain();
      expect(await fixture.findings()).toEqual([]);
    }
  };
  await Promise.all([1, 2, 3, 4].map(converterAtWork));

  for (const upload of await uploads()) {
    expect(upload).toMatchObject({ status: 'completed', pagesDone: 12, pagesTotal: 12, error: null, password: null });
    expect(await fixture.pages(upload.id)).toHaveLength(12);
  }
  const { rows } = await fixture.db.execute(sql`
    select (select count(*)::int from jobs where status <> 'completed') as unfinished,
      (select count(*)::int from jobs) as jobs,
      (select count(*)::int from job_attempts where status = 'running') as attempts,
      (select count(*)::int from pgboss.job) as queued`);
  expect(rows).toEqual([{ unfinished: 0, jobs: UPLOADS * ORIGINALS * 3, attempts: 0, queued: 0 }]);
});
