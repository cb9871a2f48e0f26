import { Tally } from '../../../api/jobs/usage-tally.ts';
import type { Usage } from '../../../db/usage.ts';

// A module has no global `jest`.
const { jest } = import.meta;

const of = (jobs: number): Usage => ({ jobs, payloadBytes: 0, shapes: new Set() });
const upTo = (most: number, wanted: number) => (waiting: Usage) => {
  if (waiting.jobs + wanted > most) throw new Error(`${waiting.jobs} wait`);
};

beforeEach(() => jest.useFakeTimers({ doNotFake: ['nextTick'] }));
afterEach(() => jest.useRealTimers());

test('requests at once share a look, and get no more than the bound together', async () => {
  let looks = 0;
  const tally = new Tally(async () => {
    looks++;
    return of(3);
  });
  const answers = await Promise.allSettled(Array.from({ length: 50 }, () => tally.reserve(of(2), upTo(10, 2))));
  expect(answers.filter(({ status }) => status === 'fulfilled').length).toBe(3);
  expect(looks).toBe(1);
});

test('a reservation counts until a look has begun after its end, however long that takes', async () => {
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

test('a look that fails refuses those who wait for it, and the next request looks again', async () => {
  let away = true;
  const tally = new Tally(async () => {
    if (away) throw new Error('the database is away');
    return of(1);
  });
  await expect(tally.read()).rejects.toThrow('away');
  away = false;
  expect(await tally.read()).toMatchObject({ jobs: 1 });
});
