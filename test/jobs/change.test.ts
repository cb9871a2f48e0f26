import { eq } from 'drizzle-orm';
import { jobs } from '../../db/schema.ts';
import { changeJob, type JobChange } from '../../jobs/change.ts';
import { COMPLETED, FAILED, type JobsFixture, openJobsFixture, range } from './fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const TOMORROW = new Date(Date.now() + 86_400_000);
const YESTERDAY = new Date(Date.now() - 86_400_000);
const change = (id: string, to: JobChange) => changeJob(fixture.db, fixture.queues, id, to);
const claimedIds = async () => (await fixture.claimOnce(await fixture.converter())).map(({ id }) => id);

test('a job of a higher priority starts first, and keeps its place among its equals', async () => {
  await fixture.submit({ id: 'a' }, { id: 'b' }, { id: 'c' }, { id: 'd' });
  const before = await fixture.job('c');
  await change('d', { priority: 'high' });
  expect(await change('c', { priority: 'high' })).toMatchObject({
    priority: 'high',
    status: 'ready',
    arrivedAt: before.arrivedAt,
    queueId: before.queueId,
  });
  expect(await claimedIds()).toEqual(['c', 'd', 'a', 'b']);
});

test('a ready job leaves the queue for a future run_at, and returns for none or a past one', async () => {
  for (const runAt of [null, YESTERDAY]) {
    const [id = ''] = await fixture.submit({});
    expect(await change(id, { runAt: TOMORROW })).toMatchObject({
      status: 'scheduled',
      runAt: TOMORROW,
      dueAt: TOMORROW,
    });
    expect(await fixture.findings()).toEqual([]);
    expect(await claimedIds()).toEqual([]);
    expect(await change(id, { runAt })).toMatchObject({ status: 'ready', runAt, dueAt: null });
    expect(await claimedIds()).toEqual([id]);
  }
});

test('a scheduled job gets another run_at, and a ready job that runs now keeps its place', async () => {
  const later = new Date(TOMORROW.getTime() + 60_000);
  const [scheduled = '', ready = ''] = await fixture.submit({ runAt: TOMORROW }, {});
  expect(await change(scheduled, { runAt: later })).toMatchObject({ status: 'scheduled', dueAt: later });
  const { arrivedAt, queueId } = await fixture.job(ready);
  expect(await change(ready, { runAt: null })).toMatchObject({ status: 'ready', arrivedAt, queueId });
});

test('a blocked job waits for its run_at after its prerequisites have completed', async () => {
  const [first = ''] = await fixture.submit({});
  const [second = ''] = await fixture.submit({ dependsOn: [first] });
  expect(await change(second, { runAt: TOMORROW })).toMatchObject({ status: 'blocked', dueAt: null });
  await fixture.settle(await fixture.claimOne(), COMPLETED);
  expect(await fixture.job(second)).toMatchObject({ status: 'scheduled', dueAt: TOMORROW });
});

test('a retrying job waits for its run_at after its backoff', async () => {
  const [id = ''] = await fixture.submit({});
  await fixture.settle(await fixture.claimOne(), FAILED);
  const { dueAt } = await fixture.job(id);
  expect(await change(id, { runAt: TOMORROW, priority: 'low' })).toMatchObject({ status: 'retrying', dueAt });
  await fixture.passBackoff();
  expect(await fixture.job(id)).toMatchObject({ status: 'scheduled', dueAt: TOMORROW, priority: 'low' });
});

test('an attempt runs with the last payload', async () => {
  const [id = ''] = await fixture.submit({ payload: { n: 1 } });
  await change(id, { payload: { n: 'é' } });
  expect(await fixture.claimOne()).toMatchObject({ id, payload: { n: 'é' }, payloadBytes: 10 });
});

test('a job that runs, has ended or does not exist cannot be changed', async () => {
  const [id = ''] = await fixture.submit({});
  const attempt = await fixture.claimOne();
  const before = await fixture.job(id);
  await expect(change(id, { priority: 'high' })).rejects.toMatchObject({ code: 'conflict', status: 409 });
  expect(await fixture.job(id)).toEqual(before);
  await fixture.settle(attempt, COMPLETED);
  await expect(change(id, { runAt: TOMORROW })).rejects.toMatchObject({ status: 409 });
  expect(await change('nobody', { priority: 'high' })).toBeUndefined();
});

test('only the priority of an internal job can be changed', async () => {
  const upload = await fixture.upload();
  const [convert] = await fixture.db.select().from(jobs).where(eq(jobs.uploadId, upload));
  await fixture.settle(await fixture.claimOne(), { kind: 'split', children: [range([1, 2]), range([3, 4])] });
  const [child] = await fixture.db
    .select()
    .from(jobs)
    .where(eq(jobs.parentId, convert?.id ?? ''));
  const id = child?.id ?? '';
  await expect(change(id, { payload: {} })).rejects.toMatchObject({ status: 409 });
  await expect(change(id, { priority: 'high', runAt: null })).rejects.toMatchObject({ status: 409 });
  expect(await change(id, { priority: 'critical' })).toMatchObject({ priority: 'critical', status: 'ready' });
  expect((await claimedIds())[0]).toBe(id);
  await fixture.cancelUpload(upload);
});

test('a change concurrent with a claim precedes it or is refused', async () => {
  for (let round = 0; round < 20; round++) {
    const ids = await fixture.submit({}, {}, {});
    const converter = await fixture.converter();
    const [claimed, ...changes] = await Promise.all([
      fixture.claimOnce(converter),
      ...ids.map((id) =>
        change(id, { runAt: TOMORROW, payload: { changed: true } }).then(
          () => true,
          (error) => {
            expect(error).toMatchObject({ status: 409 });
            return false;
          },
        ),
      ),
    ]);
    const running = new Map(claimed.map((job) => [job.id, job]));
    for (const [index, id] of ids.entries()) {
      expect([changes[index], running.has(id)]).toContainEqual(true);
      expect(await fixture.job(id)).toMatchObject(
        changes[index] ? { status: 'scheduled', payload: { changed: true } } : { status: 'running', payload: {} },
      );
    }
    expect(await fixture.findings()).toEqual([]);
  }
});
