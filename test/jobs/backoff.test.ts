import { backoffSeconds, hasAttemptsLeft } from '../../jobs/backoff.ts';

// A module has no global `jest`.
const { jest } = import.meta;

afterEach(() => jest.restoreAllMocks());

const JOB = { initialDelaySeconds: 1, backoffMultiplier: 2, failures: 0 };

function rangeOf(job: typeof JOB): [shortest: number, longest: number] {
  const random = jest.spyOn(Math, 'random').mockReturnValue(0);
  const shortest = backoffSeconds(job);
  random.mockReturnValue(1);
  return [shortest, backoffSeconds(job)];
}

test('the backoff doubles with each failure, with jitter over its second half', () => {
  const ranges = [0, 1, 2, 3].map((failures) => rangeOf({ ...JOB, failures }));
  expect(ranges).toEqual([
    [0.5, 1],
    [1, 2],
    [2, 4],
    [4, 8],
  ]);
});

test('the backoff is at most an hour', () => {
  expect(rangeOf({ initialDelaySeconds: 3_000, backoffMultiplier: 100, failures: 1 })).toEqual([1_800, 3_600]);
});

test('a job has attempts left until the last one fails', () => {
  expect([0, 1, 2].map((failures) => hasAttemptsLeft({ failures, maxAttempts: 3 }))).toEqual([true, true, false]);
});
