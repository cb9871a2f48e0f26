import type { PageRow } from '../../../bench/corpus/examine.ts';
import { Highest } from '../../../bench/corpus/report.ts';
import { Summary } from '../../../bench/corpus/summary.ts';

function row(facts: Partial<PageRow>): PageRow {
  return {
    file: 'a.pdf',
    page: 1,
    result: 'drawn',
    code: null,
    message: null,
    engine: 'pdfium',
    note: null,
    width: 100,
    height: 100,
    seconds: 1,
    is_slow: false,
    tools: {},
    tool_distance: null,
    distance: null,
    is_outlier: false,
    is_other_size: false,
    ...facts,
  };
}

function summaryOf(...rows: Partial<PageRow>[]): Summary {
  const summary = new Summary();
  for (const facts of rows) summary.add(row(facts));
  return summary;
}

test.each([
  ['a lost page', { result: 'lost' }],
  ['a page that took over 60 s', { is_slow: true }],
  ['an outlier', { is_outlier: true }],
] as const)('%s fails the run', (_, facts) => {
  expect(summaryOf({}).passes(0)).toBe(true);
  expect(summaryOf({}, facts).passes(0)).toBe(false);
});

test('outliers pass up to the number that is allowed; lost pages never do', () => {
  expect(summaryOf({ is_outlier: true }, { is_outlier: true }).passes(2)).toBe(true);
  expect(summaryOf({ is_outlier: true }, { is_outlier: true }).passes(1)).toBe(false);
  expect(summaryOf({ result: 'lost' }).passes(1)).toBe(false);
});

test('failures are counted by code, pages by engine, notes by their text up to a bound', () => {
  const failed = { result: 'failed', engine: null } as const;
  const notes = Array.from({ length: 150 }, (_, at) => ({ note: `note ${at}` }));
  const summary = summaryOf({ ...failed, code: 'timeout' }, { ...failed, code: 'timeout' }, ...notes, {
    note: 'note 1',
  });
  expect(Object.fromEntries(summary.lines())).toMatchObject({
    pages: '153',
    drawn: '151',
    'failed: timeout': '2',
    'drawn by pdfium': '151',
    'drawn with a note': '151',
  });
  expect(summary.noteCounts().slice(0, 2)).toEqual([
    ['other notes', 50],
    ['note 1', 2],
  ]);
});

test('the highest ranks are kept in order, and equal ranks in order of arrival', () => {
  const highest = new Highest<string>(3);
  for (const [rank, entry] of [
    [1, 'a'],
    [5, 'b'],
    [3, 'c'],
    [5, 'd'],
    [0, 'e'],
  ] as const)
    highest.add(rank, entry);
  expect(highest.entries()).toEqual(['b', 'd', 'c']);
  expect(highest.wants(4)).toBe(true);
  expect(highest.wants(3)).toBe(false);
});
