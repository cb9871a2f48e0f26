import { eq, sql } from 'drizzle-orm';
import { converters } from '../../db/schema.ts';
import { claimJobs } from '../../jobs/claim.ts';
import type { Shape } from '../../jobs/shape.ts';
import { AMPLE, COMPLETED, type JobsFixture, openJobsFixture, SMALL } from './fixture.ts';

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

/** What a converter of `capacity` with `free` left claims. */
async function claim(converter: Converter, free: Shape, capacity: Shape = ROOM): Promise<string[]> {
  return (await claimJobs(fixture.db, fixture.queues, converter, { free, capacity })).map(({ id }) => id);
}

/** A heavy job of high priority that has been ready for so long, and light ones of a low one. */
async function waitingFor(seconds: number, light = 10): Promise<void> {
  await fixture.submit({ id: 'heavy', shape: HEAVY, priority: 'high' });
  await fixture.submit(
    ...Array.from({ length: light }, (_, index) => ({ id: `light${index}`, priority: 'low' as const })),
  );
  await fixture.db.execute(
    sql`update jobs set ready_at = now() - make_interval(secs => ${seconds}) where id = 'heavy'`,
  );
}

async function drainsFor(converter: Converter): Promise<number> {
  const [row] = await fixture.db
    .select({ seconds: sql<number>`coalesce(extract(epoch from drains_until - now()), 0)::float` })
    .from(converters)
    .where(eq(converters.id, converter.id));
  return row?.seconds ?? 0;
}

test('a converter claims nothing more until there is room for the heavy job that waited over half a minute', async () => {
  const converter = await fixture.converter();
  await waitingFor(31);
  expect(await claim(converter, GAP)).toEqual([]);
  expect(await drainsFor(converter)).toBeGreaterThan(0);
  expect(await claim(converter, { cpuUnits: 3, memoryMb: 4096 })).toEqual([]);
  expect(await claim(converter, ROOM)).toEqual(['heavy']);
  expect(await claim(converter, GAP)).toHaveLength(2);
});

test('a heavy job that waited less does not keep the light ones from filling the gap', async () => {
  const converter = await fixture.converter();
  await waitingFor(25);
  expect(await claim(converter, GAP)).toHaveLength(2);
  expect(await drainsFor(converter)).toBe(0);
});

test('only one converter makes room, while the others go on', async () => {
  const [first, second] = [await fixture.converter(), await fixture.converter()];
  await waitingFor(31);
  expect(await claim(first, GAP)).toEqual([]);
  expect(await claim(second, GAP)).toHaveLength(2);
  expect(await claim(first, GAP)).toEqual([]);
  expect([(await drainsFor(first)) > 0, await drainsFor(second)]).toEqual([true, 0]);
});

test('of converters that claim at once one makes room', async () => {
  const all = await Promise.all(Array.from({ length: 5 }, () => fixture.converter()));
  await waitingFor(31, 0);
  for (let round = 0; round < 20; round++) {
    await Promise.all(all.map((converter) => claim(converter, GAP)));
    const drained = await Promise.all(all.map(drainsFor));
    expect(drained.filter((seconds) => seconds > 0)).toHaveLength(1);
    await fixture.db.update(converters).set({ drainsUntil: null });
  }
});

test('another converter may take the heavy job that one makes room for', async () => {
  const [first, second] = [await fixture.converter(), await fixture.converter()];
  await waitingFor(31);
  expect(await claim(first, GAP)).toEqual([]);
  expect(await claim(second, ROOM)).toEqual(['heavy']);
  expect(await claim(first, GAP)).toHaveLength(2);
});

test('another converter makes room when the first has not said so for a while', async () => {
  const [first, second] = [await fixture.converter(), await fixture.converter()];
  await waitingFor(31);
  expect(await claim(first, GAP)).toEqual([]);
  expect(await drainsFor(first)).toBeLessThanOrEqual(5);
  await fixture.db.update(converters).set({ drainsUntil: sql`now() - interval '1 second'` });
  expect(await claim(second, GAP)).toEqual([]);
  expect(await claim(first, GAP)).toHaveLength(2);
});

test.each(['stopped', 'lost'] as const)('another converter makes room when the first is %s', async (status) => {
  const [first, second] = [await fixture.converter(), await fixture.converter()];
  await waitingFor(31);
  expect(await claim(first, GAP)).toEqual([]);
  await fixture.db.update(converters).set({ status }).where(eq(converters.id, first.id));
  expect(await claim(second, GAP)).toEqual([]);
});

test('a converter that could never hold the heavy job does not wait for it', async () => {
  const converter = await fixture.converter();
  await waitingFor(3_600);
  expect(await claim(converter, GAP, { cpuUnits: 3, memoryMb: 4096 })).toHaveLength(2);
  expect(await claim(converter, GAP, { cpuUnits: 4, memoryMb: 2047 })).toHaveLength(2);
  expect(await drainsFor(converter)).toBe(0);
});

test('a heavy job that is not the best does not stop what comes before it', async () => {
  const converter = await fixture.converter();
  await waitingFor(3_600);
  await fixture.submit({ id: 'urgent', priority: 'critical' });
  expect(await claim(converter, SMALL)).toEqual(['urgent']);
  expect(await claim(converter, GAP)).toEqual([]);
});

test('of the light jobs a claim takes only those that come before the heavy one', async () => {
  const converter = await fixture.converter();
  await fixture.submit({ id: 'first', priority: 'critical' }, { id: 'second', priority: 'high' });
  await fixture.submit({ id: 'heavy', shape: HEAVY });
  await fixture.submit({ id: 'last', priority: 'low' });
  const order: string[][] = [];
  for (
    let batch = await claim(converter, AMPLE, AMPLE);
    batch.length > 0;
    batch = await claim(converter, AMPLE, AMPLE)
  ) {
    order.push(batch);
  }
  expect(order).toEqual([['first', 'second'], ['heavy'], ['last']]);
});

test('a stream of light jobs cannot keep a heavy one waiting for ever', async () => {
  const converter = await fixture.converter();
  const capacity = { cpuUnits: 4, memoryMb: 2048 };
  const running = new Map((await startLight(4)).map((job) => [job.id, job]));
  await fixture.submit({ id: 'heavy', shape: HEAVY });
  async function startLight(count: number) {
    await fixture.submit(...Array(count).fill({ priority: 'high', shape: SMALL }));
    return claimJobs(fixture.db, fixture.queues, converter, { free: capacity, capacity });
  }
  // Light jobs of the same priority come in all the time, and the heavy one has waited long enough.
  await fixture.db.execute(sql`update jobs set ready_at = now() - interval '31 seconds' where id = 'heavy'`);
  for (let round = 0; round < 5; round++) {
    await fixture.submit({}, {});
    const [id, job] = [...running][0] ?? [];
    if (id === undefined || job === undefined) break;
    running.delete(id);
    await fixture.settle(job, COMPLETED);
    const free = { cpuUnits: 4 - running.size, memoryMb: 2048 - 256 * running.size };
    const claimed = await claim(converter, free, capacity);
    expect(claimed).toEqual(running.size === 0 ? ['heavy'] : []);
  }
  expect((await fixture.job('heavy')).status).toBe('running');
});
