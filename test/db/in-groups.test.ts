import { inGroups } from '../../db/in-groups.ts';

/** Multiplies numbers by ten and records the groups. Each group waits for `open`. */
function writer(max: number, { refuse = [] as number[], code = '22P05' } = {}) {
  const groups: number[][] = [];
  const gate = Promise.withResolvers<void>();
  const write = inGroups(max, async (items: number[]) => {
    groups.push(items);
    await gate.promise;
    if (items.some((item) => refuse.includes(item))) throw Object.assign(new Error('refused'), { code });
    return items.map((item) => item * 10);
  });
  return { write, groups, open: gate.resolve };
}

test('a single item is written at once, and items that arrive meanwhile share the next writes in order', async () => {
  const { write, groups, open } = writer(3);
  const first = write(1);
  await new Promise(setImmediate);
  expect(groups).toEqual([[1]]);
  const others = [2, 3, 4, 5].map(write);
  open();
  expect(await Promise.all([first, ...others])).toEqual([10, 20, 30, 40, 50]);
  expect(groups).toEqual([[1], [2, 3, 4], [5]]);
});

test('an item that cannot be written fails alone, and later items are written', async () => {
  const { write, groups, open } = writer(10, { refuse: [2] });
  open();
  const results = await Promise.allSettled([1, 2, 3].map(write));
  expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
  expect(groups).toEqual([[1, 2, 3], [1], [2], [3]]);
  expect(await write(4)).toBe(40);
});

test('an outage fails a whole group, and no item is written twice', async () => {
  const { write, groups, open } = writer(10, { refuse: [2], code: 'ECONNRESET' });
  open();
  const results = await Promise.allSettled([1, 2, 3].map(write));
  expect(results.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected']);
  expect(groups).toEqual([[1, 2, 3]]);
  expect(await write(4)).toBe(40);
});
