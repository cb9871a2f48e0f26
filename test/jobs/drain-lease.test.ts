import { eq, sql } from 'drizzle-orm';
import { converters } from '../../db/schema.ts';
import type { Shape } from '../../jobs/shape.ts';
import { COMPLETED, type JobsFixture, openJobsFixture, SMALL } from './fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const HEAVY = { cpuUnits: 4, memoryMb: 2048 };
const ROOM = { cpuUnits: 4, memoryMb: 4096 };
const GAP = { cpuUnits: 2, memoryMb: 1024 };

type Converter = { id: string; name: string };

/** Claims by a converter of `capacity` with `free` left, whose running jobs end in `seconds`. */
async function claim(converter: Converter, free: Shape, capacity: Shape = ROOM, seconds = 60): Promise<string[]> {
  const shape = { cpuUnits: capacity.cpuUnits - free.cpuUnits, memoryMb: capacity.memoryMb - free.memoryMb };
  const running = shape.cpuUnits + shape.memoryMb > 0 ? [{ shape, endsAt: Date.now() + seconds * 1_000 }] : [];
  return (await fixture.claimOnce(converter, { capacity, running })).map(({ id }) => id);
}

/** Submits a heavy job of high priority that has waited for some seconds, and light ones of low priority. */
async function waitingFor(seconds: number, light = 10): Promise<void> {
  await fixture.submit({ id: 'heavy', shape: HEAVY, priority: 'high' });
  await fixture.submit(
    ...Array.from({ length: light }, (_, index) => ({ id: `light${index}`, priority: 'low' as const })),
  );
  await fixture.db.execute(
    sql`update jobs set arrived_at = now() - make_interval(secs => ${seconds}) where id = 'heavy'`,
  );
}

async function drainsFor(converter: Converter): Promise<number> {
  const [row] = await fixture.db
    .select({ seconds: sql<number>`coalesce(extract(epoch from drains_until - now()), 0)::float` })
    .from(converters)
    .where(eq(converters.id, converter.id));
  return row?.seconds ?? 0;
}

test('a converter claims no job until the heavy job that waited over half a minute has room', async () => {
  const converter = await fixture.converter();
  await waitingFor(31);
  expect(await claim(converter, GAP)).toEqual([]);
  expect(await drainsFor(converter)).toBeGreaterThan(0);
  expect(await claim(converter, { cpuUnits: 3, memoryMb: 4096 })).toEqual([]);
  expect(await claim(converter, ROOM)).toEqual(['heavy']);
  expect(await claim(converter, GAP)).toHaveLength(2);
});

test('a heavy job that waited less does not block light ones', async () => {
  const converter = await fixture.converter();
  await waitingFor(25);
  expect(await claim(converter, GAP)).toHaveLength(2);
  expect(await drainsFor(converter)).toBe(0);
});

test('only one converter drains, while the others continue', async () => {
  const [first, second] = [await fixture.converter(), await fixture.converter()];
  await waitingFor(31);
  expect(await claim(first, GAP)).toEqual([]);
  expect(await claim(second, GAP)).toHaveLength(2);
  expect(await claim(first, GAP)).toEqual([]);
  expect([(await drainsFor(first)) > 0, await drainsFor(second)]).toEqual([true, 0]);
});

test('one of several concurrent converters drains', async () => {
  const all = await Promise.all(Array.from({ length: 5 }, () => fixture.converter()));
  await waitingFor(31, 0);
  for (let round = 0; round < 20; round++) {
    await Promise.all(all.map((converter) => claim(converter, GAP)));
    const drained = await Promise.all(all.map(drainsFor));
    expect(drained.filter((seconds) => seconds > 0)).toHaveLength(1);
    await fixture.db.update(converters).set({ drainsUntil: null });
  }
});

test('another converter may claim the heavy job for which one drains', async () => {
  const [first, second] = [await fixture.converter(), await fixture.converter()];
  await waitingFor(31);
  expect(await claim(first, GAP)).toEqual([]);
  expect(await claim(second, ROOM)).toEqual(['heavy']);
  expect(await claim(first, GAP)).toHaveLength(2);
});

test('another converter drains when the lease of the first has expired', async () => {
  const [first, second] = [await fixture.converter(), await fixture.converter()];
  await waitingFor(31);
  expect(await claim(first, GAP)).toEqual([]);
  expect(await drainsFor(first)).toBeLessThanOrEqual(5);
  await fixture.db.update(converters).set({ drainsUntil: sql`now() - interval '1 second'` });
  expect(await claim(second, GAP)).toEqual([]);
  expect(await claim(first, GAP)).toHaveLength(2);
});

test.each(['stopped', 'lost'] as const)('another converter drains when the first is %s', async (status) => {
  const [first, second] = [await fixture.converter(), await fixture.converter()];
  await waitingFor(31);
  expect(await claim(first, GAP)).toEqual([]);
  await fixture.db.update(converters).set({ status }).where(eq(converters.id, first.id));
  expect(await claim(second, GAP)).toEqual([]);
});

test('a converter that can never hold the heavy job does not drain', async () => {
  const converter = await fixture.converter();
  await waitingFor(3_600);
  expect(await claim(converter, GAP, { cpuUnits: 3, memoryMb: 4096 })).toHaveLength(2);
  expect(await claim(converter, GAP, { cpuUnits: 4, memoryMb: 2047 })).toHaveLength(2);
  expect(await drainsFor(converter)).toBe(0);
});

test('a heavy job does not block more urgent jobs', async () => {
  const converter = await fixture.converter();
  await waitingFor(3_600);
  await fixture.submit({ id: 'urgent', priority: 'critical' });
  expect(await claim(converter, SMALL)).toEqual(['urgent']);
  expect(await claim(converter, GAP)).toEqual([]);
});

test('a light job that ends before the heavy one has room may start', async () => {
  const converter = await fixture.converter();
  await waitingFor(31, 0);
  await fixture.submit({ id: 'short', timeoutSeconds: 50 }, { id: 'long', timeoutSeconds: 70 });
  expect(await claim(converter, GAP, ROOM, 60)).toEqual(['short']);
});

test('a light job that leaves room for the heavy one may start', async () => {
  const converter = await fixture.converter();
  await waitingFor(31, 2);
  const capacity = { cpuUnits: 5, memoryMb: 4096 };
  expect(await claim(converter, { cpuUnits: 3, memoryMb: 2304 }, capacity)).toEqual(['light0']);
});

test('a heavy job that would wait for hours does not idle a converter', async () => {
  const converter = await fixture.converter();
  await waitingFor(31);
  const hours = 12 * 3_600;
  expect(await claim(converter, GAP, ROOM, hours)).toHaveLength(2);
  // After an hour of waiting, only jobs that end before the long one still start.
  await fixture.db.execute(sql`update jobs set arrived_at = now() - interval '1 hour' where id = 'heavy'`);
  await fixture.submit({ id: 'longer', timeoutSeconds: hours + 60 });
  expect((await claim(converter, GAP, ROOM, hours)).toSorted()).toEqual(['light2', 'light3']);
  await fixture.db.execute(sql`update jobs set timeout_seconds = ${hours + 60} where status = 'ready'`);
  expect(await claim(converter, GAP, ROOM, hours)).toEqual([]);
});

test('smaller background jobs stop passing a large one that has waited over half a minute', async () => {
  const converter = await fixture.converter();
  const capacity = { cpuUnits: 4, memoryMb: 8192 };
  const small = { shape: { cpuUnits: 0, memoryMb: 768 }, priority: 'low' as const };
  await fixture.submit({
    id: 'large',
    shape: { cpuUnits: 0, memoryMb: 8192 },
    arrivedAt: new Date(Date.now() - 31_000),
  });
  await fixture.submit(small, small);
  const running = [{ shape: small.shape, endsAt: Date.now() + 10_000 }];
  expect(await fixture.claimOnce(converter, { capacity, running })).toEqual([]);
  expect((await fixture.claimOnce(converter, { capacity })).map(({ id }) => id)[0]).toBe('large');
});

test('the converter that has room first takes the lease from one that has it later', async () => {
  const [first, second] = [await fixture.converter(), await fixture.converter()];
  await waitingFor(31);
  expect(await claim(first, GAP, ROOM, 100)).toEqual([]);
  expect(await claim(second, GAP, ROOM, 50)).toEqual([]);
  expect(await claim(first, GAP, ROOM, 100)).toHaveLength(2);
  expect([await drainsFor(first), (await drainsFor(second)) > 0]).toEqual([0, true]);
});

test('a stream of light jobs does not starve a heavy one', async () => {
  const converter = await fixture.converter();
  const capacity = { cpuUnits: 4, memoryMb: 2048 };
  await fixture.submit(...Array(4).fill({ priority: 'high' }));
  const running = new Map((await fixture.claimOnce(converter, { capacity })).map((job) => [job.id, job]));
  await fixture.submit({ id: 'heavy', shape: HEAVY, arrivedAt: new Date(Date.now() - 31_000) });
  const reservation = { shape: SMALL, endsAt: Date.now() + 300_000 };
  for (const job of [...running.values()]) {
    await fixture.submit({}, {});
    running.delete(job.id);
    await fixture.settle(job, COMPLETED);
    const claimed = await fixture.claimOnce(converter, { capacity, running: Array(running.size).fill(reservation) });
    expect(claimed.map(({ id }) => id)).toEqual(running.size === 0 ? ['heavy'] : []);
  }
});
