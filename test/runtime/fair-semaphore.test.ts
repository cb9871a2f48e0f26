import { FairSemaphore, SemaphoreTimeout } from '../../runtime/fair-semaphore.ts';

test('holders take turns, however much one of them waits for', async () => {
  const turns = new FairSemaphore({ max: 3, maxPerRequester: 2 });
  const started: string[] = [];
  const gives: (() => void)[] = [];
  const ask = (holder: string, name: string) =>
    turns.take(holder).then((give) => {
      started.push(name);
      gives.push(give);
    });
  const all = [
    ...Array.from({ length: 6 }, (_, index) => ask('alice', `a${index}`)),
    ...Array.from({ length: 3 }, (_, index) => ask('bob', `b${index}`)),
    ...Array.from({ length: 2 }, (_, index) => ask('carol', `c${index}`)),
  ];
  // The last turn is left to holders that have none.
  await new Promise(setImmediate);
  expect(started).toEqual(['a0', 'a1', 'b0']);
  while (gives.length > 0) {
    gives.shift()?.();
    await new Promise(setImmediate);
  }
  await Promise.all(all);
  expect(started.slice(3)).toEqual(['c0', 'a2', 'b1', 'c1', 'a3', 'b2', 'a4', 'a5']);
});

test('a holder that waits for too many turns is refused, and others still wait', async () => {
  const turns = new FairSemaphore({ max: 1, maxPerRequester: 1 });
  const give = await turns.take('alice');
  const waiting = Array.from({ length: 2_000 }, () => turns.take('alice').then((next) => next()));
  await expect(turns.take('alice')).rejects.toMatchObject({ status: 429, code: 'too_many_requests' });
  const other = turns.take('bob').then((next) => next());
  give();
  await Promise.all([other, ...waiting]);
});

test('a turn that does not come in time is given up, and takes none later', async () => {
  const turns = new FairSemaphore({ max: 1, maxPerRequester: 1, maxWaitMs: 20 });
  const give = await turns.take('alice');
  await expect(turns.take('bob')).rejects.toThrow(SemaphoreTimeout);
  give();
  (await turns.take('carol'))();
});
