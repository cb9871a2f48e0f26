import { sql } from 'drizzle-orm';
import { type Claimant, ConverterLost } from '../../jobs/claim.ts';
import { type JobsFixture, openJobsFixture, SMALL } from './fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const HEAVY = { cpuUnits: 4, memoryMb: 2048 };

/** Claims one job after another. Returns their ids in order. */
async function claimOneByOne(): Promise<string[]> {
  const converter = await fixture.converter();
  const ids: string[] = [];
  for (;;) {
    const [job] = await fixture.claimOnce(converter, { capacity: SMALL });
    if (job === undefined) return ids;
    ids.push(job.id);
  }
}

test('jobs start in the order of their priority', async () => {
  const [low, normal, critical, high] = await fixture.submit(
    { priority: 'low' },
    { priority: 'normal' },
    { priority: 'critical' },
    { priority: 'high' },
  );
  expect(await claimOneByOne()).toEqual([critical, high, normal, low]);
});

test('the order holds across jobs of different shapes', async () => {
  const [low] = await fixture.submit({ priority: 'low', shape: SMALL });
  const [critical] = await fixture.submit({ priority: 'critical', shape: HEAVY });
  const [normal] = await fixture.submit({ priority: 'normal', shape: SMALL });
  const [high] = await fixture.submit({ priority: 'high', shape: { cpuUnits: 2, memoryMb: 512 } });
  const claimed = await fixture.claim();
  expect(claimed.map(({ id }) => id)).toEqual([critical, high, normal, low]);
});

test('among equal jobs the earlier starts first', async () => {
  const ids: string[] = [];
  for (let submitted = 0; submitted < 8; submitted++) ids.push(...(await fixture.submit({})));
  expect(await claimOneByOne()).toEqual(ids);
});

test('a low job that has waited for more than an hour starts before a new normal one', async () => {
  const waited = (seconds: number) => new Date(Date.now() - seconds * 1000);
  const [young, normal, old] = await fixture.submit(
    { priority: 'low', arrivedAt: waited(3_500) },
    { priority: 'normal' },
    { priority: 'low', arrivedAt: waited(3_700) },
  );
  expect(await claimOneByOne()).toEqual([old, normal, young]);
});

test('one claim takes as many jobs as fit, and never more', async () => {
  const converter = await fixture.converter();
  await fixture.submit(...Array(20).fill({}));
  const count = async (cpuUnits: number, memoryMb: number) =>
    (await fixture.claimOnce(converter, { capacity: { cpuUnits, memoryMb } })).length;
  expect(await count(0, 10_000)).toBe(0);
  expect(await count(4, 255)).toBe(0);
  expect(await count(4, 767)).toBe(2);
  expect(await count(3, 10_000)).toBe(3);
  expect(await count(1, 256)).toBe(1);
});

test('a light job fills the gap that a heavy job of a higher priority leaves', async () => {
  const converter = await fixture.converter();
  const [heavy, light] = await fixture.submit({ priority: 'critical', shape: HEAVY }, { priority: 'low' });
  const [first, ...none] = await fixture.claimOnce(converter, { capacity: { cpuUnits: 3, memoryMb: 4096 } });
  expect([first?.id, none]).toEqual([light, []]);
  expect(await fixture.claimOnce(converter, { capacity: { cpuUnits: 8, memoryMb: 2047 } })).toEqual([]);
  const [then] = await fixture.claimOnce(converter, { capacity: HEAVY });
  expect(then?.id).toBe(heavy);
});

test('a claim starts nothing without ready jobs', async () => {
  expect(await fixture.claim()).toEqual([]);
});

test('a claim records its attempt, its converter and its shape', async () => {
  const converter = await fixture.converter();
  await fixture.submit({ shape: HEAVY });
  const job = await fixture.claimOne(converter);
  expect(job).toMatchObject({ status: 'running', attempt: 1, converterId: converter.id, startedAt: expect.any(Date) });
  expect(await fixture.attempts(job.id)).toEqual([
    expect.objectContaining({
      attempt: 1,
      status: 'running',
      converterId: converter.id,
      converter: converter.name,
      ...HEAVY,
      finishedAt: null,
    }),
  ]);
});

test('an upload is processing from the first claim of one of its jobs', async () => {
  const id = await fixture.upload(2);
  expect((await fixture.findUpload(id)).status).toBe('queued');
  await fixture.claimOnce(await fixture.converter(), { capacity: SMALL });
  expect((await fixture.findUpload(id)).status).toBe('processing');
});

test('concurrent claims never start the same job', async () => {
  const shapes = [SMALL, HEAVY, { cpuUnits: 1, memoryMb: 512 }].map((shape) => ({ shape }));
  const submitted = await fixture.submit(...Array.from({ length: 50 }, () => shapes).flat());
  const converters = await Promise.all(Array.from({ length: 6 }, () => fixture.converter()));
  const claimed = await Promise.all(converters.map((converter) => fixture.claim(converter)));
  const ids = claimed.flat().map(({ id }) => id);
  // A converter stops early when the others were faster, so that jobs may be left for a last round.
  ids.push(...(await fixture.claim()).map(({ id }) => id));
  expect(ids.toSorted()).toEqual(submitted.toSorted());
  const { rows } = await fixture.db.execute(sql`select count(*)::int as count, max(attempt) as most from job_attempts`);
  expect(rows).toEqual([{ count: 150, most: 1 }]);
});

test('a lost converter starts no job, and removes none from the queue', async () => {
  const converter = await fixture.converter();
  await fixture.submit({}, {});
  await fixture.db.execute(sql`update converters set status = 'lost'`);
  await expect(fixture.claimOnce(converter)).rejects.toThrow(ConverterLost);
  expect(await fixture.claim()).toHaveLength(2);
});

test('jobs join the background lane while it has room, and smaller jobs pass them', async () => {
  const large = { shape: { cpuUnits: 0, memoryMb: 1024 }, priority: 'high' as const };
  await fixture.submit(large, large, large, {}, {});
  const converter = await fixture.converter();
  const claim = async (having: Partial<Claimant>) =>
    (await fixture.claimOnce(converter, having)).map(({ memoryMb }) => memoryMb);
  const running = [{ shape: large.shape, endsAt: Date.now() + 60_000 }];
  expect(await claim({ capacity: { cpuUnits: 1, memoryMb: 8192 }, running })).toEqual([256]);
  expect(await claim({ capacity: { cpuUnits: 2, memoryMb: 8192 } })).toEqual([1024, 1024, 256]);
  expect(await claim({ capacity: { cpuUnits: 2, memoryMb: 2048 }, running })).toEqual([]);
  expect(await claim({ capacity: { cpuUnits: 2, memoryMb: 1024 } })).toEqual([1024]);
});

test('a converter claims only jobs of types that it knows', async () => {
  await fixture.submit({ type: 'new', priority: 'critical' }, { type: 'old' });
  const converter = await fixture.converter();
  const typesOf = async (types: string[]) => (await fixture.claimOnce(converter, { types })).map(({ type }) => type);
  expect(await typesOf(['old'])).toEqual(['old']);
  expect(await typesOf(['old'])).toEqual([]);
  expect(await typesOf(['old', 'new'])).toEqual(['new']);
});
