import { retry } from '../../runtime/retry.ts';

const BACKOFF = { initialMs: 1, maxMs: 4 };

test('the wait doubles with each failure up to its maximum', async () => {
  const waits: number[] = [];
  let calls = 0;
  const work = async () => {
    if (++calls < 6) throw new Error('not yet');
    return calls;
  };
  const onFailure = (_error: unknown, backoffMs: number) => {
    waits.push(backoffMs);
    return 0;
  };
  expect(await retry(work, BACKOFF, onFailure)).toBe(6);
  expect(waits).toEqual([1, 2, 4, 4, 4]);
});

test('a caller that throws gives up with its own error', async () => {
  const work = () => Promise.reject(new Error('refused'));
  const giveUp = (cause: unknown) => {
    throw new Error('gave up', { cause });
  };
  await expect(retry(work, BACKOFF, giveUp)).rejects.toThrow('gave up');
});

test('an abort ends the wait', async () => {
  const work = () => Promise.reject(new Error('refused'));
  const aborting = retry(work, BACKOFF, () => 60_000, AbortSignal.timeout(10));
  await expect(aborting).rejects.toThrow('aborted');
});
