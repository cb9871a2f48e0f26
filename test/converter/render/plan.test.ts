import { planRanges } from '../../../converter/render/plan.ts';

const OWN = { cpuUnits: 1, memoryMb: 384 };

/** How many pages each range has, for a document of so many pages that need the same. */
function sizes(count: number): number[] {
  const planned = Array.from({ length: count }, (_, index) => ({ page: index + 1, memoryMb: 300 }));
  const ranges = planRanges(planned, OWN);
  expect(ranges.flatMap(({ pages }) => pages)).toEqual(planned.map(({ page }) => page));
  return ranges.map(({ pages }) => pages.length);
}

test.each([
  [1, [1]],
  [7, [7]],
  [8, [4, 4]],
  [13, [7, 6]],
  [14, [7, 7]],
  [21, [7, 7, 7]],
  [43, [11, 8, 7, 7, 5, 5]],
])('%i pages become ranges of %j', (count, expected) => {
  expect(sizes(count)).toEqual(expected);
});

test('no range is so long that a page in it waits long', () => {
  const found = sizes(353);
  expect(found.slice(0, 3)).toEqual([48, 48, 48]);
  expect(Math.max(...found)).toBe(48);
  expect(Math.min(...found)).toBeGreaterThan(2);
});
