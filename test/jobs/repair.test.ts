import { sql } from 'drizzle-orm';
import { repairQueues } from '../../jobs/repair.ts';
import { FAILED, type JobsFixture, openJobsFixture } from './fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const repair = () => repairQueues(fixture.db, fixture.queues);

/** Repairs until nothing is left, because each repair reads a random sample. */
async function repairAll(): Promise<{ sent: Set<string>; removed: Set<string> }> {
  const all = { sent: new Set<string>(), removed: new Set<string>() };
  while ((await fixture.findings()).length > 0) {
    const { sent, removed } = await repair();
    for (const id of sent) all.sent.add(id);
    for (const id of removed) all.removed.add(id);
  }
  return all;
}

test('the repair changes nothing when jobs and pg-boss agree', async () => {
  await fixture.submit({}, {}, {});
  await fixture.settle((await fixture.claim())[0] as never, FAILED);
  await fixture.submit({});
  for (let round = 0; round < 10; round++) expect(await repair()).toEqual({ sent: [], removed: [] });
});

test('a ready job without its pg-boss job gets one, and runs', async () => {
  const ids = await fixture.submit(...Array(20).fill({}));
  await fixture.db.execute(sql`delete from pgboss.job where id in (select queue_id from jobs limit 15)`);
  expect((await repairAll()).sent.size).toBe(15);
  expect((await fixture.finishAll()).toSorted()).toEqual(ids.toSorted());
});

test('a pg-boss job without a job is removed', async () => {
  await fixture.submit(...Array(20).fill({}));
  const { rows } = await fixture.db.execute<{ id: string }>(sql`
    update jobs set queue_id = null, status = 'cancelled', finished_at = now()
    where id in (select id from jobs limit 12) returning id`);
  expect(rows).toHaveLength(12);
  const { sent, removed } = await repairAll();
  expect([sent.size, removed.size]).toEqual([0, 12]);
  expect(await fixture.finishAll()).toHaveLength(8);
});

test('concurrent repairs and claims repair each row once', async () => {
  const ids = await fixture.submit(...Array(40).fill({}));
  await fixture.db.execute(sql`delete from pgboss.job where id in (select queue_id from jobs limit 20)`);
  const [, , claimed] = await Promise.all([repair(), repair(), fixture.claim()]);
  await repairAll();
  const later = await fixture.claim();
  expect([...(claimed ?? []), ...later].map(({ id }) => id).toSorted()).toEqual(ids.toSorted());
});
