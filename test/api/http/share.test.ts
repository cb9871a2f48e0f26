import { setTimeout as delay } from 'node:timers/promises';
import { shareFor } from '../../../api/http/share.ts';

test('calls share one result while it loads and until it expires', async () => {
  let loads = 0;
  const gate = Promise.withResolvers<void>();
  const read = shareFor(50, async () => {
    const load = ++loads;
    await gate.promise;
    return load;
  });
  const first = [read(), read()];
  await delay(60);
  first.push(read());
  gate.resolve();
  expect(await Promise.all([...first, read()])).toEqual([1, 1, 1, 1]);
  await delay(60);
  expect(await read()).toBe(2);
});

test('an error rejects the waiting calls, and the next call loads again', async () => {
  let loads = 0;
  const read = shareFor(60_000, async () => {
    if (++loads === 1) throw new Error('no Postgres');
    return loads;
  });
  const failed = await Promise.allSettled([read(), read()]);
  expect(failed.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
  expect([await read(), await read()]).toEqual([2, 2]);
});
