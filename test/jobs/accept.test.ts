import { inArray } from 'drizzle-orm';
import { converters, jobs } from '../../db/schema.ts';
import { acceptJobs } from '../../jobs/accept.ts';
import type { NewJob } from '../../jobs/submit.ts';
import { COMPLETED, type JobsFixture, openJobsFixture, SMALL } from './fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const job = (id?: string, more: Partial<NewJob> = {}): NewJob => ({
  type: 'test',
  priority: 'normal',
  payload: {},
  shape: SMALL,
  fingerprint: 'one',
  ...(id !== undefined && { id }),
  ...more,
});
const accept = (...newJobs: NewJob[]) => acceptJobs(fixture.db, fixture.queues, newJobs);
const stored = () => fixture.db.$count(jobs);

async function roomFor(cpuUnits: number, memoryMb: number): Promise<void> {
  const { id } = await fixture.converter();
  await fixture.db
    .update(converters)
    .set({ cpuUnits, memoryMb })
    .where(inArray(converters.id, [id]));
}

test('new and existing rows are returned in the order of the request', async () => {
  const [known] = await accept(job('known'));
  const rows = await accept(job('z'), job(), job('known'), job('a', { dependsOn: ['z'] }), job());
  expect(rows.map(({ id, status }) => [id, status])).toEqual([
    ['z', 'ready'],
    [expect.stringMatching(/^job_/), 'ready'],
    ['known', 'ready'],
    ['a', 'blocked'],
    [expect.stringMatching(/^job_/), 'ready'],
  ]);
  expect(rows[2]).toEqual(known);
  expect(await stored()).toBe(5);
});

test('a repeated job is the existing job in any status', async () => {
  await accept(job('a'));
  await fixture.settle(await fixture.claimOne(), COMPLETED);
  expect(await accept(job('a'))).toMatchObject([{ id: 'a', status: 'completed', attempt: 1 }]);
  expect(await fixture.claim()).toEqual([]);
});

test.each([1, 3])(
  'the same %s jobs sent ten times at once are stored once, and all get the same rows',
  async (count) => {
    for (let round = 0; round < 5; round++) {
      const batch = Array.from({ length: count }, (_, index) => job(`${round}-${index}`));
      const answers = await Promise.all(Array.from({ length: 10 }, () => accept(...batch)));
      for (const answer of answers) expect(answer).toEqual(answers[0]);
      expect(await stored()).toBe(count * (round + 1));
    }
  },
);

test('batches that share jobs in different orders are stored at once without a failure', async () => {
  for (let round = 0; round < 5; round++) {
    const batch = Array.from({ length: 8 }, (_, index) => job(`${round}-${index}`));
    await Promise.all([
      accept(...batch),
      accept(...batch.toReversed()),
      accept(...batch),
      accept(...batch.toReversed()),
    ]);
    expect(await stored()).toBe(8 * (round + 1));
  }
});

test('another job with an existing id is a conflict, and its batch is not stored', async () => {
  await accept(job('a'));
  await expect(accept(job('b'), job('a', { fingerprint: 'two' }))).rejects.toMatchObject({
    code: 'conflict',
    status: 409,
  });
  expect(await stored()).toBe(1);
});

test('one of two concurrent jobs with the same id is stored, and the other is a conflict', async () => {
  for (let round = 0; round < 10; round++) {
    const id = `a${round}`;
    const results = await Promise.allSettled([accept(job(id)), accept(job(id, { fingerprint: 'two' }))]);
    expect(results.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'rejected']);
    expect(results.find(({ status }) => status === 'rejected')).toMatchObject({ reason: { code: 'conflict' } });
  }
});

test('the id of an internal job is a conflict', async () => {
  await fixture.submit({ id: 'a' });
  await expect(accept(job('a'))).rejects.toMatchObject({ code: 'conflict' });
});

test('a batch with an unknown prerequisite is not stored', async () => {
  await expect(accept(job('a'), job('b', { dependsOn: ['a', 'nobody'] }))).rejects.toMatchObject({
    code: 'unknown_dependency',
    status: 422,
    message: expect.stringContaining('nobody'),
  });
  expect(await stored()).toBe(0);
});

test('the record callback and the jobs are atomic', async () => {
  const record = async () => {
    throw new Error('could not be recorded');
  };
  await expect(acceptJobs(fixture.db, fixture.queues, [job('a')], record)).rejects.toThrow('could not be recorded');
  expect(await stored()).toBe(0);
});

test('jobs of any shape wait while no converter is live', async () => {
  await roomFor(1, 512);
  await fixture.db.update(converters).set({ status: 'stopped' });
  const shape = { cpuUnits: 64, memoryMb: 16_384 };
  expect(await accept(job('a', { shape }))).toMatchObject([{ status: 'ready', ...shape }]);
});

test('a batch with a job that no live converter can hold is refused', async () => {
  await roomFor(2, 4096);
  await roomFor(8, 1024);
  const fits = [
    { cpuUnits: 2, memoryMb: 4096 },
    { cpuUnits: 8, memoryMb: 1024 },
  ];
  for (const shape of [
    { cpuUnits: 4, memoryMb: 4096 },
    { cpuUnits: 9, memoryMb: 256 },
    { cpuUnits: 1, memoryMb: 6144 },
  ]) {
    await expect(accept(job(), job('big', { shape }))).rejects.toMatchObject({
      code: 'exceeds_capacity',
      status: 422,
      message: expect.stringContaining('2 CPU and 4096 MB'),
    });
  }
  expect(await stored()).toBe(0);
  expect(await accept(...fits.map((shape) => job(undefined, { shape })))).toHaveLength(2);
});

test('a batch may have a thousand jobs', async () => {
  const ids = Array.from({ length: 1000 }, (_, index) => `j${index}`);
  const rows = await accept(...ids.map((id, index) => job(id, { dependsOn: index % 2 ? [`j${index - 1}`] : [] })));
  expect(rows.map(({ id }) => id)).toEqual(ids);
  expect(rows.filter(({ status }) => status === 'ready')).toHaveLength(500);
  expect(await fixture.finishAll()).toHaveLength(1000);
});
