import { StepTimeout, type StepTimeoutOptions } from '../../../converter/sandbox/step-timeout.ts';
import type { Step } from '../../../jobs/task.ts';

// A module has no global `jest`.
const { jest } = import.meta;
beforeEach(() => jest.useFakeTimers());
afterEach(() => jest.useRealTimers());

const LIMIT_SECONDS = 10;
const step = (page: number, engine: Step['engine'], last: boolean): Step => ({ page, engine, last });

/** A timeout for a process that gets this share of a processor; null where the kernel reports no processor time. */
function startTimeout(cpuShare: number | null, options: Partial<StepTimeoutOptions> = {}) {
  const timedOut: Step[] = [];
  const timeout = new StepTimeout({
    cpuSeconds: () => (cpuShare === null ? null : (performance.now() / 1000) * cpuShare),
    limitSeconds: LIMIT_SECONDS,
    spentBefore: () => 0,
    onTimeout: (at) => timedOut.push(at),
    ...options,
  });
  return { timeout, timedOut };
}

/** The elapsed seconds until the timeout, to a tenth. */
function secondsUntilTimeout(timedOut: Step[]): number {
  let tenths = 0;
  for (; timedOut.length === 0 && tenths < 1_000; tenths++) jest.advanceTimersByTime(100);
  return tenths / 10;
}

test.each([
  ['an engine without a fallback has the whole limit', true, 1, 0, 10],
  ['an engine with a fallback has half of the limit', false, 1, 0, 5],
  ['the time of earlier runs counts', true, 1, 7, 3],
  ['the processor time counts, and not the elapsed time', true, 0.5, 0, 20],
  ['the elapsed time counts where the kernel reports no processor time', true, null, 0, 10],
  ['a process without processor time has five times the limit in elapsed time', true, 0, 0, 50],
])('%s', (_claim, last, cpuShare, spent, seconds) => {
  const { timeout, timedOut } = startTimeout(cpuShare, { spentBefore: () => spent });
  const begun = step(1, 'pdfium', last);
  timeout.begin(begun);
  expect(secondsUntilTimeout(timedOut)).toBeCloseTo(seconds, 0);
  expect(timedOut).toEqual([begun]);
});

test('two engines share the limit of a page, and another page has a separate limit', () => {
  const { timeout, timedOut } = startTimeout(1);
  timeout.begin(step(1, 'pdfium', false));
  jest.advanceTimersByTime(4_000);
  timeout.begin(step(1, 'pdf-to-img', true));
  expect(secondsUntilTimeout(timedOut)).toBeCloseTo(6, 0);
  expect(timeout.spentSeconds()).toBeCloseTo(10, 0);
  timeout.begin(step(2, 'pdfium', true));
  expect(timeout.spentSeconds()).toBe(0);
});

test('a stopped step does not time out', () => {
  const { timeout, timedOut } = startTimeout(1);
  timeout.begin(step(1, 'pdfium', true));
  jest.advanceTimersByTime(4_000);
  timeout.stop();
  jest.advanceTimersByTime(60_000);
  expect(timedOut).toEqual([]);
  expect(timeout.spentSeconds()).toBeCloseTo(4, 1);
});
