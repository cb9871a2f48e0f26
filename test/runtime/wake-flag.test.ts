import { WakeFlag } from '../../runtime/wake-flag.ts';

const LONG_MS = 30_000;

test('a wait ends when the flag is set', async () => {
  const flag = new WakeFlag();
  const waiting = flag.wait(LONG_MS);
  flag.set();
  await waiting;
});

test('a set before the wait ends it at once, and counts once', async () => {
  const flag = new WakeFlag();
  flag.set();
  flag.set();
  await flag.wait(LONG_MS);
  const began = performance.now();
  await flag.wait(30);
  expect(performance.now() - began).toBeGreaterThan(25);
});

test('a wait ends after its maximum time', async () => {
  await new WakeFlag().wait(10);
});
