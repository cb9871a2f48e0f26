import { setImmediate as turn } from 'node:timers/promises';
import { createBatchLoader } from '../../../api/http/batch-loader.ts';

const MAX = 3;

test('concurrent calls share queries with a limited number of ids, one query at a time', async () => {
  const queries: string[][] = [];
  let running = 0;
  const load = createBatchLoader<string>(MAX, async (ids) => {
    expect(++running).toBe(1);
    queries.push(ids);
    await turn();
    running--;
    return new Map(ids.filter((id) => id !== 'absent').map((id) => [id, `document of ${id}`]));
  });
  const ids = ['a', 'b', 'c', 'a', 'absent', 'd', 'e', 'f'];
  const found = await Promise.all(ids.map(load));
  expect(found).toEqual(ids.map((id) => (id === 'absent' ? undefined : `document of ${id}`)));
  expect(queries).toEqual([['a', 'b', 'c'], ['absent', 'd', 'e'], ['f']]);
});

test('a call is answered by a query that starts after it, and an error rejects only the calls of its query', async () => {
  let state = 1;
  const running = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<void>();
  const load = createBatchLoader<number>(MAX, async (ids) => {
    const seen = state;
    running.resolve();
    await gate.promise;
    if (ids.includes('bad')) throw new Error('no Postgres');
    return new Map(ids.map((id) => [id, seen]));
  });
  const before = load('a');
  await running.promise;
  state = 2;
  const after = load('a');
  gate.resolve();
  expect([await before, await after]).toEqual([1, 2]);
  await expect(load('bad')).rejects.toThrow('no Postgres');
  expect(await load('b')).toBe(2);
});
