import { Tally } from '../../../api/jobs/usage-tally.ts';
import type { Usage } from '../../../db/usage.ts';

// ES modules have no global `jest`.
const { jest } = import.meta;

const of = (jobs: number): Usage => ({ jobs, payloadBytes: 0, shapes: new Set() });
const upTo = (max: number, wanted: number) => (waiting: Usage) => {
  if (waiting.jobs + wanted > max) throw new Error(`${waiting.jobs} wait`);
};

beforeEach(() => jest.useFakeTimers({ doNotFake: ['nextTick'] }));
afterEach(() => jest.useRealTimers());

test('concurrent requests share a reading, and do not exceed the limit together', async () => {
  let reads = 0;
  const tally = new Tally(async () => {
    reads++;
    return of(3);
  });
  const answers = await Promise.allSettled(Array.from({ length: 50 }, () => tally.reserve(of(2), upTo(10, 2))));
  expect(answers.filter(({ status }) => status === 'fulfilled').length).toBe(3);
  expect(reads).toBe(1);
});

test('a reservation counts until a reading begins after its end', async () => {
  const seen = [of(0), of(0), of(5)];
  const tally = new Tally(async () => seen.shift() ?? of(5));
  const release = await tally.reserve(of(5), () => undefined);
  jest.advanceTimersByTime(10_000);
  expect(await tally.read()).toMatchObject({ jobs: 5 });
  expect(tally.isIdle()).toBe(false);
  release();
  expect(await tally.read()).toMatchObject({ jobs: 5 });
  jest.advanceTimersByTime(10_000);
  expect(await tally.read()).toMatchObject({ jobs: 5 });
  expect(tally.isIdle()).toBe(true);
});

test('a failed reading rejects its callers, and the next request reads again', async () => {
  let isDown = true;
  const tally = new Tally(async () => {
    if (isDown) throw new Error('unreachable');
    return of(1);
  });
  await expect(tally.read()).rejects.toThrow('unreachable');
  isDown = false;
  expect(await tally.read()).toMatchObject({ jobs: 1 });
});
