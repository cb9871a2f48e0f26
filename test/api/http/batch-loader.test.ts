import { setImmediate as turn } from 'node:timers/promises';
import { createBatchLoader } from '../../../api/http/batch-loader.ts';

const MAX = 3;

test('calls that arrive together share queries of a bounded number of ids, one query at a time', async () => {
  const queries: string[][] = [];
  let running = 0;
  const ask = createBatchLoader<string>(MAX, async (ids) => {
    expect(++running).toBe(1);
    queries.push(ids);
    await turn();
    running--;
    return new Map(ids.filter((id) => id !== 'absent').map((id) => [id, `document of ${id}`]));
  });
  const ids = ['a', 'b', 'c', 'a', 'absent', 'd', 'e', 'f'];
  const found = await Promise.all(ids.map(ask));
  expect(found).toEqual(ids.map((id) => (id === 'absent' ? undefined : `document of ${id}`)));
  expect(queries).toEqual([['a', 'b', 'c'], ['absent', 'd', 'e'], ['f']]);
});

test('a call is answered by a query that began after it, and an error reaches only the calls of its query', async () => {
  let state = 1;
  const running = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<void>();
  const ask = createBatchLoader<number>(MAX, async (ids) => {
    const seen = state;
    running.resolve();
    await gate.promise;
    if (ids.includes('bad')) throw new Error('no Postgres');
    return new Map(ids.map((id) => [id, seen]));
  });
  const before = ask('a');
  await running.promise;
  state = 2;
  const after = ask('a');
  gate.resolve();
  expect([await before, await after]).toEqual([1, 2]);
  await expect(ask('bad')).rejects.toThrow('no Postgres');
  expect(await ask('b')).toBe(2);
});
