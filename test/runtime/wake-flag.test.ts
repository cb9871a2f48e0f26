import { WakeFlag } from '../../runtime/wake-flag.ts';

const LONG_MS = 30_000;

test('a wait ends when the signal is set', async () => {
  const signal = new WakeFlag();
  const waiting = signal.wait(LONG_MS);
  signal.set();
  await waiting;
});

test('what was set before the wait is not missed, and counts once', async () => {
  const signal = new WakeFlag();
  signal.set();
  signal.set();
  await signal.wait(LONG_MS);
  const began = performance.now();
  await signal.wait(30);
  expect(performance.now() - began).toBeGreaterThan(25);
});

test('a wait ends after its time in any case', async () => {
  await new WakeFlag().wait(10);
});
