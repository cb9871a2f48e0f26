import { sql } from 'drizzle-orm';
import type { ClaimedJob } from '../../jobs/claim.ts';
import { findCycle } from '../../jobs/dependencies.ts';
import { COMPLETED, FAILED_PERMANENTLY, type JobsFixture, openJobsFixture } from './fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const job = (id: string, ...dependsOn: string[]) => ({ id, dependsOn });
const graph = (edges: Record<string, string[]>) => new Map(Object.entries(edges));
const numbered = (count: number, name: string) => Array.from({ length: count }, (_, index) => `${name}${index}`);

/** Claims all ready jobs. Returns the attempts by the id of their job. */
async function claimed(): Promise<Record<string, ClaimedJob>> {
  return Object.fromEntries((await fixture.claim()).map((attempt) => [attempt.id, attempt]));
}

describe('a cycle', () => {
  test('is a list of ids that ends with the first', () => {
    expect(findCycle(graph({ a: ['c'], c: ['b'], b: ['a'] }))).toEqual(['a', 'c', 'b', 'a']);
  });

  test('can be one job that depends on itself', () => {
    expect(findCycle(graph({ a: [], b: ['a', 'b'] }))).toEqual(['b', 'b']);
  });

  test('is found for any order of the jobs, without the path to it', () => {
    const edges = Object.entries({ x: ['a'], a: ['d', 'c'], c: ['b'], b: ['a'], d: [] });
    for (let turn = 0; turn < edges.length; turn++) {
      const cycle = findCycle(new Map([...edges.slice(turn), ...edges.slice(0, turn)])) ?? [];
      expect(cycle).toHaveLength(4);
      expect(cycle.at(-1)).toBe(cycle[0]);
      expect(cycle.slice(1).toSorted()).toEqual(['a', 'b', 'c']);
    }
  });

  test('is not found in a diamond', () => {
    expect(findCycle(graph({ d: ['b', 'c'], b: ['a'], c: ['a'], a: [] }))).toBeUndefined();
  });

  test('is not found in edges to ids outside the batch', () => {
    expect(findCycle(graph({ a: ['stored'], b: ['stored', 'a'] }))).toBeUndefined();
  });

  test('is found in a ring of a thousand jobs, and not in a chain of a thousand', () => {
    const ids = numbered(1000, 'j');
    const chain = new Map(ids.map((id, index) => [id, ids.slice(index + 1, index + 2)]));
    expect(findCycle(chain)).toBeUndefined();
    chain.set('j999', ['j0']);
    expect(findCycle(chain)).toEqual([...ids, 'j0']);
  });
});

describe('a submitted job', () => {
  test('is blocked by prerequisites that have not completed', async () => {
    await fixture.submit({ id: 'done' });
    await fixture.finishAll();
    await fixture.submit({ id: 'waiting' }, job('mixed', 'done', 'waiting', 'waiting'), job('free', 'done'));
    expect(await fixture.job('mixed')).toMatchObject({ status: 'blocked', pendingDependencies: 1, queueId: null });
    expect(await fixture.job('free')).toMatchObject({ status: 'ready', pendingDependencies: 0 });
  });

  test.each([
    ['failed', 'has failed', () => fixture.finishAll(FAILED_PERMANENTLY)],
    ['cancelled', 'was cancelled', () => fixture.cancel('stored')],
  ])('with a %s prerequisite fails, and so do its dependants', async (_status, ended, end) => {
    await fixture.submit({ id: 'stored' });
    await end();
    // The order within a batch is free.
    await fixture.submit(job('c', 'b'), job('b', 'a'), job('a', 'stored'), { id: 'apart' });
    expect(await fixture.statuses('a', 'b', 'c', 'apart')).toEqual(['failed', 'failed', 'failed', 'ready']);
    expect((await fixture.job('a')).error).toEqual({
      code: 'dependency_failed',
      message: `its prerequisite stored ${ended}`,
    });
    expect((await fixture.job('c')).error?.message).toBe('its prerequisite b has failed');
  });
});

describe('the end of a prerequisite', () => {
  test('makes its dependants ready in the same transaction', async () => {
    await fixture.submit({ id: 'a' }, job('b', 'a'), job('c', 'b'));
    await fixture.settle(await fixture.claimOne(), COMPLETED);
    expect(await fixture.job('b')).toMatchObject({ status: 'ready', queueId: expect.any(String) });
    const { rows } = await fixture.db.execute(sql`
      select 1 from pgboss.job queued join jobs on queued.id = queue_id where jobs.id = 'b' and state = 'created'`);
    expect(rows).toHaveLength(1);
    expect(await fixture.job('c')).toMatchObject({ status: 'blocked', pendingDependencies: 1 });
  });

  test('schedules a dependant with a future run_at', async () => {
    const runAt = new Date(Date.now() + 3_600_000);
    await fixture.submit({ id: 'a' }, { ...job('later', 'a'), runAt }, { ...job('past', 'a'), runAt: new Date(0) });
    expect(await fixture.job('later')).toMatchObject({ status: 'blocked', dueAt: null });
    await fixture.finishAll();
    expect(await fixture.job('later')).toMatchObject({ status: 'scheduled', dueAt: runAt, queueId: null });
    expect((await fixture.job('past')).status).toBe('completed');
  });

  test('releases the end of a diamond once both its sides have completed', async () => {
    await fixture.submit(job('d', 'b', 'c'), job('c', 'a'), job('b', 'a'), { id: 'a' });
    await fixture.settle(await fixture.claimOne(), COMPLETED);
    const { b, c } = (await claimed()) as { b: ClaimedJob; c: ClaimedJob };
    await fixture.settle(b, COMPLETED);
    expect(await fixture.job('d')).toMatchObject({ status: 'blocked', pendingDependencies: 1 });
    await fixture.settle(c, COMPLETED);
    expect((await fixture.claimOne()).id).toBe('d');
  });

  test('runs a chain of fifty in order', async () => {
    const ids = numbered(50, 'j');
    await fixture.submit(...ids.map((id, index) => job(id, ...ids.slice(Math.max(0, index - 1), index))).reverse());
    expect(await fixture.finishAll()).toEqual(ids);
  });

  test.each([
    ['failure', 'has failed', () => fixture.finishAll(FAILED_PERMANENTLY)],
    ['cancellation', 'was cancelled', () => fixture.cancel('a')],
  ])('by %s fails all direct and indirect dependants', async (_name, ended, end) => {
    await fixture.submit({ id: 'a' }, job('b', 'a'), job('c', 'a'), job('d', 'b', 'c'), job('e', 'd'));
    await end();
    expect(await fixture.statuses('b', 'c', 'd', 'e')).toEqual(Array(4).fill('failed'));
    expect((await fixture.job('b')).error).toEqual({
      code: 'dependency_failed',
      message: `its prerequisite a ${ended}`,
    });
    expect((await fixture.job('d')).error?.message).toMatch(/^its prerequisite [bc] has failed$/);
    expect(await fixture.job('e')).toMatchObject({
      error: { message: 'its prerequisite d has failed' },
      finishedAt: expect.any(Date),
      attempt: 0,
    });
  });

  test('does not change dependants of other jobs', async () => {
    await fixture.submit({ id: 'a' }, { id: 'other' }, job('b', 'a'), job('kept', 'other'));
    await fixture.cancel('a');
    expect(await fixture.statuses('b', 'other', 'kept')).toEqual(['failed', 'ready', 'blocked']);
  });
});

describe('concurrently', () => {
  test('two prerequisites that complete release their dependant exactly once', async () => {
    for (let round = 0; round < 60; round++) {
      const [a, b, c] = [`a${round}`, `b${round}`, `c${round}`];
      await fixture.submit({ id: a }, { id: b }, job(c, a, b));
      await Promise.all((await fixture.claimApart()).map((attempt) => fixture.settle(attempt, COMPLETED)));
      expect((await fixture.claimOne()).id).toBe(c);
      await fixture.cancel(c);
    }
  });

  test('one prerequisite that completes and one that fails leave their dependant failed', async () => {
    for (let round = 0; round < 60; round++) {
      const [a, b, c] = [`a${round}`, `b${round}`, `c${round}`];
      await fixture.submit({ id: a }, { id: b }, job(c, a, b));
      const attempts = await fixture.claimApart();
      await Promise.all(
        attempts.map((attempt) => fixture.settle(attempt, attempt.id === a ? COMPLETED : FAILED_PERMANENTLY)),
      );
      expect(await fixture.job(c)).toMatchObject({
        status: 'failed',
        error: { message: `its prerequisite ${b} has failed` },
      });
    }
  });

  test.each([
    ['completes', COMPLETED, 'ready'],
    ['fails', FAILED_PERMANENTLY, 'failed'],
  ])('a dependant submitted while its prerequisite %s is never left blocked', async (_name, outcome, status) => {
    for (let round = 0; round < 100; round++) {
      const [a, b, c] = [`a${round}`, `b${round}`, `c${round}`];
      await fixture.submit({ id: a });
      const attempt = await fixture.claimOne();
      const submits = () => [fixture.submit(job(b, a), job(c, b))];
      const settles = () => [fixture.settle(attempt, outcome)];
      await Promise.all(round % 2 ? [...submits(), ...settles()] : [...settles(), ...submits()]);
      expect(await fixture.statuses(b, c)).toEqual([status, status === 'ready' ? 'blocked' : status]);
      if (status === 'ready') await fixture.cancel(b);
    }
  });

  test('crossing diamonds that fail are all settled, even after deadlocks', async () => {
    for (let round = 0; round < 5; round++) {
      const tops = numbered(6, `${round}-top`);
      const middles = numbered(6, `${round}-middle`);
      const bottoms = numbered(6, `${round}-bottom`);
      await fixture.submit(
        ...tops.map((id) => ({ id })),
        ...middles.map((id, index) => job(id, ...(index % 2 ? tops : tops.toReversed()))),
        ...bottoms.map((id, index) => job(id, ...(index % 2 ? middles : middles.toReversed()))),
      );
      const attempts = await fixture.claimApart();
      const settled = await Promise.all(
        attempts.map((attempt, index) => fixture.settle(attempt, index % 2 ? FAILED_PERMANENTLY : COMPLETED)),
      );
      expect(settled).toEqual(Array(6).fill(true));
      expect(new Set(await fixture.statuses(...middles, ...bottoms))).toEqual(new Set(['failed']));
    }
  });

  test('crossing diamonds that complete run each job once, even after deadlocks', async () => {
    const layers = numbered(4, 'layer').map((name) => numbered(8, name));
    const jobs = layers.flatMap((layer, depth) => layer.map((id) => job(id, ...(layers[depth - 1] ?? []))));
    await fixture.submit(...jobs);
    for (const layer of layers) {
      const attempts = await fixture.claimApart();
      expect(attempts.map(({ id }) => id).toSorted()).toEqual(layer);
      await Promise.all(attempts.map((attempt) => fixture.settle(attempt, COMPLETED)));
    }
    expect(new Set(await fixture.statuses(...layers.flat()))).toEqual(new Set(['completed']));
  });
});
