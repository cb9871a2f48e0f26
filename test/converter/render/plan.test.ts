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
  [5, [5]],
  [6, [3, 3]],
  [9, [5, 4]],
  [10, [5, 5]],
  [20, [5, 5, 5, 5]],
  [31, [8, 6, 5, 5, 4, 3]],
])('%i pages become ranges of %j', (count, expected) => {
  expect(sizes(count)).toEqual(expected);
});

test('no range is so long that much is done again when it fails', () => {
  const found = sizes(353);
  expect(found.slice(0, 3)).toEqual([24, 24, 24]);
  expect(Math.max(...found)).toBe(24);
  expect(Math.min(...found)).toBeGreaterThan(2);
});
