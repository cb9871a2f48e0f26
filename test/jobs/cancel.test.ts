import { recordInspection, recordPages } from '../../conversion/record-pages.ts';
import type { ClaimedJob } from '../../jobs/claim.ts';
import type { Outcome } from '../../jobs/settle.ts';
import {
  COMPLETED,
  completedPage,
  FAILED,
  FAILED_PERMANENTLY,
  type JobsFixture,
  openJobsFixture,
  range,
} from './fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const CONFLICT = { code: 'conflict', status: 409 };
const ENDED = { status: 'cancelled', queueId: null, converterId: null, dueAt: null, finishedAt: expect.any(Date) };

/** Creates job `a` in a status before its end. */
async function jobThatIs(status: string): Promise<void> {
  if (status === 'scheduled') await fixture.submit({ id: 'a', runAt: new Date(Date.now() + 3_600_000) });
  else if (status === 'blocked') await fixture.submit({ id: 'before' }, { id: 'a', dependsOn: ['before'] });
  else await fixture.submit({ id: 'a' });
  if (status === 'running') await fixture.claimOne();
  if (status === 'retrying') await fixture.settle(await fixture.claimOne(), FAILED);
}

test.each(['scheduled', 'blocked', 'ready', 'running', 'retrying'])('a %s job can be cancelled', async (status) => {
  await jobThatIs(status);
  expect((await fixture.job('a')).status).toBe(status);
  await fixture.submit({ id: 'after', dependsOn: ['a'] });
  expect(await fixture.cancel('a')).toMatchObject({ id: 'a', ...ENDED, error: null, result: null });
  expect(await fixture.job('a')).toMatchObject(ENDED);
  expect(await fixture.job('after')).toMatchObject({ status: 'failed', error: { code: 'dependency_failed' } });
  expect((await fixture.claim()).map(({ id }) => id)).toEqual(status === 'blocked' ? ['before'] : []);
});

test('the attempt of a running job is cancelled with it, and does not count as a failure', async () => {
  await jobThatIs('running');
  await fixture.cancel('a');
  expect(await fixture.attempts('a')).toMatchObject([
    { status: 'cancelled', error: null, finishedAt: expect.any(Date) },
  ]);
  expect(await fixture.job('a')).toMatchObject({ attempt: 1, failures: 0 });
});

test('a split job is cancelled with those of its children that have not ended', async () => {
  await fixture.submit({ id: 'a' });
  await fixture.settle(await fixture.claimOne(), {
    kind: 'split',
    children: [range([1, 1]), range([2, 2]), range([3, 3]), range([4, 4])],
  });
  const [done, running, retrying, returned] = (await fixture.claim()) as [
    ClaimedJob,
    ClaimedJob,
    ClaimedJob,
    ClaimedJob,
  ];
  await fixture.settle(done, COMPLETED);
  await fixture.settle(retrying, FAILED);
  await fixture.settle(returned, { kind: 'returned' });
  expect(await fixture.cancel('a')).toMatchObject({ ...ENDED, pendingChildren: 0 });
  const ids = [done.id, running.id, retrying.id, returned.id];
  expect(await fixture.statuses(...ids)).toEqual(['completed', 'cancelled', 'cancelled', 'cancelled']);
  expect(await fixture.attempts(running.id)).toMatchObject([{ status: 'cancelled' }]);
  expect(await fixture.attempts(returned.id)).toMatchObject([{ status: 'returned' }]);
  expect(await fixture.settle(running, COMPLETED)).toBe(false);
});

test('a job that has ended cannot be cancelled', async () => {
  await fixture.submit({ id: 'completed' });
  await fixture.finishAll();
  await fixture.submit({ id: 'failed' });
  await fixture.finishAll(FAILED_PERMANENTLY);
  await fixture.submit({ id: 'cancelled' });
  await fixture.cancel('cancelled');
  for (const status of ['completed', 'failed', 'cancelled']) {
    const before = await fixture.job(status);
    await expect(fixture.cancel(status)).rejects.toMatchObject({
      ...CONFLICT,
      message: `${status} has ended already: ${status}`,
    });
    expect(await fixture.job(status)).toEqual(before);
  }
});

test('a child cannot be cancelled alone', async () => {
  await fixture.submit({ id: 'a' });
  await fixture.settle(await fixture.claimOne(), { kind: 'split', children: [range([1, 1])] });
  const child = await fixture.claimOne();
  await expect(fixture.cancel(child.id)).rejects.toMatchObject(CONFLICT);
  expect(await fixture.statuses('a', child.id)).toEqual(['running', 'running']);
});

test('an unknown job cannot be cancelled', async () => {
  expect(await fixture.cancel('unknown')).toBeUndefined();
});

test('a late attempt of a cancelled job changes nothing', async () => {
  const upload = await fixture.upload();
  const late = await fixture.claimOne();
  await recordInspection(fixture.db, late, { pageCount: 2, selected: [[1, 2]] });
  await recordPages(fixture.db, late, [completedPage(1)]);
  await fixture.cancel(late.id);
  const before = [await fixture.job(late.id), await fixture.attempts(late.id), await fixture.findUpload(upload)];
  const outcomes: Outcome[] = [COMPLETED, FAILED, FAILED_PERMANENTLY, { kind: 'returned' }];
  for (const outcome of outcomes) expect(await fixture.settle(late, outcome)).toBe(false);
  expect(await fixture.settle(late, { kind: 'split', children: [range([1, 1])] })).toBe(false);
  expect(await recordPages(fixture.db, late, [completedPage(2)])).toBe(false);
  expect(await recordInspection(fixture.db, late, { pageCount: 9, selected: [] })).toBe(false);
  expect([await fixture.job(late.id), await fixture.attempts(late.id), await fixture.findUpload(upload)]).toEqual(
    before,
  );
  expect(await fixture.pages(upload)).toHaveLength(1);
});

test('an upload is cancelled once the last of its jobs has ended', async () => {
  const upload = await fixture.upload(2);
  const [first, second] = (await fixture.claim()) as [ClaimedJob, ClaimedJob];
  await fixture.cancel(first.id);
  expect(await fixture.findUpload(upload)).toMatchObject({ status: 'processing', finishedAt: null });
  await fixture.settle(second, COMPLETED);
  expect(await fixture.findUpload(upload)).toMatchObject({
    status: 'cancelled',
    password: null,
    error: null,
    finishedAt: expect.any(Date),
  });
});

describe('concurrently', () => {
  test('a cancel and a claim leave the job and its attempt cancelled', async () => {
    const converter = await fixture.converter();
    let before = 0;
    for (let round = 0; round < 80; round++) {
      const [id = ''] = await fixture.submit({});
      const claims = () => fixture.claim(converter);
      const cancels = () => fixture.cancel(id);
      await Promise.all(round % 2 ? [claims(), cancels()] : [cancels(), claims()]);
      expect((await fixture.job(id)).status).toBe('cancelled');
      const statuses = (await fixture.attempts(id)).map(({ status }) => status);
      expect(statuses).toEqual(statuses.length === 0 ? [] : ['cancelled']);
      if (statuses.length === 0) before++;
      expect(await fixture.findings()).toEqual([]);
    }
    // Both orders must occur.
    expect(before).toBeGreaterThan(0);
  });

  test.each([
    ['completes', COMPLETED, 'completed'],
    ['fails', FAILED_PERMANENTLY, 'failed'],
    ['is handed back', { kind: 'returned' } as Outcome, 'cancelled'],
    ['will be retried', FAILED, 'cancelled'],
  ])('a cancel and an attempt that %s have one outcome', async (_name, outcome, settled) => {
    for (let round = 0; round < 40; round++) {
      const [id = ''] = await fixture.submit({});
      const attempt = await fixture.claimOne();
      const settles = () => fixture.settle(attempt, outcome);
      const cancels = () =>
        fixture.cancel(id).then(
          () => 'cancelled',
          (error) => error.code,
        );
      const results = await Promise.all(round % 2 ? [settles(), cancels()] : [cancels(), settles()]);
      const [cancelled, owned] = round % 2 ? results.toReversed() : results;
      const { status } = await fixture.job(id);
      if (!owned) expect([cancelled, status]).toEqual(['cancelled', 'cancelled']);
      else expect([cancelled, status]).toEqual([settled === 'cancelled' ? 'cancelled' : 'conflict', settled]);
      expect(await fixture.findings()).toEqual([]);
    }
  });

  test('a cancel and the end of a prerequisite leave a blocked job with the first of the two', async () => {
    for (let round = 0; round < 60; round++) {
      const [a, b] = [`a${round}`, `b${round}`];
      await fixture.submit({ id: a }, { id: b, dependsOn: [a] });
      const attempt = await fixture.claimOne();
      const cancels = () =>
        fixture.cancel(b).then(
          () => 'cancelled',
          () => 'failed',
        );
      const settles = () => fixture.settle(attempt, FAILED_PERMANENTLY);
      const results = await Promise.all(round % 2 ? [cancels(), settles()] : [settles(), cancels()]);
      expect((await fixture.job(b)).status).toBe(round % 2 ? results[0] : results[1]);
      const events = await fixture.events(b);
      expect(events.map(({ status }) => status)).toEqual(['blocked', (await fixture.job(b)).status]);
    }
  });

  test.each(['scheduled', 'blocked', 'ready', 'running', 'retrying'])(
    'one of two cancels of a %s job succeeds, and the other is a conflict',
    async (status) => {
      for (let round = 0; round < 10; round++) {
        await jobThatIs(status);
        const results = await Promise.allSettled([fixture.cancel('a'), fixture.cancel('a')]);
        expect(results.map((result) => result.status).toSorted()).toEqual(['fulfilled', 'rejected']);
        expect(results.find((result) => result.status === 'rejected')).toMatchObject({ reason: CONFLICT });
        expect(await fixture.findings()).toEqual([]);
        await fixture.empty();
      }
    },
  );

  test('a cancel and the ends of all children have one outcome for the parent', async () => {
    for (let round = 0; round < 40; round++) {
      const upload = await fixture.upload();
      const parent = await fixture.claimOne();
      await fixture.settle(parent, { kind: 'split', children: [range([1, 1]), range([2, 2])] });
      const children = await fixture.claimApart();
      const cancels = fixture.cancel(parent.id).then(
        () => 'cancelled',
        () => 'completed',
      );
      await Promise.all(children.map((child) => fixture.settle(child, COMPLETED)));
      const outcome = await cancels;
      expect([(await fixture.job(parent.id)).status, (await fixture.findUpload(upload)).status]).toEqual([
        outcome,
        outcome,
      ]);
      expect(await fixture.findings()).toEqual([]);
    }
  });
});
