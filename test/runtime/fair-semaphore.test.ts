import { FairSemaphore, SemaphoreTimeout } from '../../runtime/fair-semaphore.ts';

test('requesters take turns, however many requests of one of them wait', async () => {
  const semaphore = new FairSemaphore({ max: 3, maxPerRequester: 2 });
  const started: string[] = [];
  const releases: (() => void)[] = [];
  const request = (requester: string, name: string) =>
    semaphore.acquire(requester).then((release) => {
      started.push(name);
      releases.push(release);
    });
  const all = [
    ...Array.from({ length: 6 }, (_, index) => request('alice', `a${index}`)),
    ...Array.from({ length: 3 }, (_, index) => request('bob', `b${index}`)),
    ...Array.from({ length: 2 }, (_, index) => request('carol', `c${index}`)),
  ];
  // The last permit is reserved for requesters without any.
  await new Promise(setImmediate);
  expect(started).toEqual(['a0', 'a1', 'b0']);
  while (releases.length > 0) {
    releases.shift()?.();
    await new Promise(setImmediate);
  }
  await Promise.all(all);
  expect(started.slice(3)).toEqual(['c0', 'a2', 'b1', 'c1', 'a3', 'b2', 'a4', 'a5']);
});

test('requests of the service itself are served in order, and use all permits', async () => {
  const semaphore = new FairSemaphore({ max: 2 });
  const order: number[] = [];
  let used = 0;
  let maxUsed = 0;
  const work = async (_: unknown, index: number) => {
    const release = await semaphore.acquire(undefined);
    order.push(index);
    maxUsed = Math.max(maxUsed, ++used);
    await new Promise(setImmediate);
    used--;
    release();
  };
  await Promise.all(Array.from({ length: 10 }, work));
  expect(order).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  expect(maxUsed).toBe(2);
});

test('a requester with too many waiting requests is refused, and others still wait', async () => {
  const semaphore = new FairSemaphore({ max: 1 });
  const release = await semaphore.acquire('alice');
  const waiting = Array.from({ length: 2_000 }, () => semaphore.acquire('alice').then((next) => next()));
  await expect(semaphore.acquire('alice')).rejects.toMatchObject({ status: 429, code: 'too_many_requests' });
  const other = semaphore.acquire('bob').then((next) => next());
  release();
  await Promise.all([other, ...waiting]);
});

test('a request that times out takes no permit later', async () => {
  const semaphore = new FairSemaphore({ max: 1, maxWaitMs: 20 });
  const release = await semaphore.acquire('alice');
  await expect(semaphore.acquire('bob')).rejects.toThrow(SemaphoreTimeout);
  release();
  (await semaphore.acquire('carol'))();
});
