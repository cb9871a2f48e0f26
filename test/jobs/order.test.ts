import { rankOf } from '../../jobs/order.ts';

const noon = new Date('2026-06-01T12:00:00Z');
const after = (seconds: number) => new Date(noon.getTime() + seconds * 1000);

test('a higher priority goes first among jobs of the same age', () => {
  const ranks = (['critical', 'high', 'normal', 'low'] as const).map((priority) => rankOf(priority, noon));
  expect(ranks).toEqual(ranks.toSorted((a, b) => b - a));
  expect(new Set(ranks).size).toBe(4);
});

test('the earlier arrival goes first among jobs of one priority', () => {
  expect(rankOf('normal', noon)).toBeGreaterThan(rankOf('normal', after(1)));
});

test('an old low job overtakes new normal ones after an hour, and not before', () => {
  expect(rankOf('low', noon)).toBeLessThan(rankOf('normal', after(3_599)));
  expect(rankOf('low', noon)).toBeGreaterThan(rankOf('normal', after(3_601)));
});

test('a normal job overtakes new critical ones after a day', () => {
  expect(rankOf('normal', noon)).toBeLessThan(rankOf('critical', after(86_399)));
  expect(rankOf('normal', noon)).toBeGreaterThan(rankOf('critical', after(86_401)));
});

test('a rank stays within an int4 for decades', () => {
  for (const year of [2026, 2060, 2090]) {
    for (const priority of ['critical', 'low'] as const) {
      const rank = rankOf(priority, new Date(Date.UTC(year, 0, 1)));
      expect(Number.isInteger(rank)).toBe(true);
      expect(Math.abs(rank)).toBeLessThan(2 ** 31);
    }
  }
});
