import { splitPages } from '../../../converter/render/split-into-ranges.ts';

const INSPECTION = { cpuUnits: 1, memoryMb: 384 };

/** The sizes of the ranges of a document whose pages all need the same memory. */
function sizes(count: number): number[] {
  const planned = Array.from({ length: count }, (_, index) => ({ page: index + 1, memoryMb: 300 }));
  const ranges = splitPages(planned, INSPECTION);
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

test('no range of a long document has more than 48 pages', () => {
  const found = sizes(353);
  expect(found.slice(0, 3)).toEqual([48, 48, 48]);
  expect(Math.max(...found)).toBe(48);
  expect(Math.min(...found)).toBeGreaterThan(2);
});

test('a range has pages of one memory class, so that a large page adds no memory to others', () => {
  const planned = Array.from({ length: 40 }, (_, index) => ({ page: index + 1, memoryMb: index === 5 ? 2000 : 300 }));
  const ranges = splitPages(planned, INSPECTION);
  expect(ranges.flatMap(({ pages }) => pages)).toEqual(planned.map(({ page }) => page));
  expect(ranges.filter(({ memoryMb }) => memoryMb !== 384)).toEqual([{ memoryMb: 2048, pages: [6] }]);
});
