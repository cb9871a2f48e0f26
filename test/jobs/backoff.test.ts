import { backoffSeconds, hasAttemptsLeft } from '../../jobs/backoff.ts';

const JOB = { initialDelaySeconds: 1, backoffMultiplier: 2, failures: 0 };

function sample(job: typeof JOB): { min: number; max: number } {
  const delays = Array.from({ length: 1_000 }, () => backoffSeconds(job));
  return { min: Math.min(...delays), max: Math.max(...delays) };
}

function expectBetween(shortest: number, longest: number, { min, max }: ReturnType<typeof sample>): void {
  expect(min).toBeGreaterThanOrEqual(shortest);
  expect(max).toBeLessThanOrEqual(longest);
  expect(max - min).toBeGreaterThan((longest - shortest) / 2);
}

test('the backoff doubles with each failure, with jitter over its second half', () => {
  for (const failures of [0, 1, 2, 3]) {
    const longest = 2 ** failures;
    expectBetween(longest / 2, longest, sample({ ...JOB, failures }));
  }
});

test('the backoff is at most an hour', () => {
  expectBetween(1_800, 3_600, sample({ initialDelaySeconds: 3_000, backoffMultiplier: 100, failures: 1 }));
});

test('a job has attempts left until the last one fails', () => {
  expect([0, 1, 2].map((failures) => hasAttemptsLeft({ failures, maxAttempts: 3 }))).toEqual([true, true, false]);
});
