import { parsePages, selectPages } from '../../conversion/page-selection.ts';

describe('parsePages', () => {
  test.each([
    ['7', [[7, 7]]],
    [
      '1-3,7',
      [
        [1, 3],
        [7, 7],
      ],
    ],
    [
      ' 9 , 2 - 4 ',
      [
        [2, 4],
        [9, 9],
      ],
    ],
    ['3,1,2,2', [[1, 3]]],
    ['1-10,5-20,21', [[1, 21]]],
    ['1-1000000', [[1, 1_000_000]]],
  ])('reads %j', (text, ranges) => {
    expect(parsePages(text)).toEqual(ranges);
  });

  test.each([
    ['', /neither a page nor a range/],
    ['1,,2', /"" is neither/],
    ['1-', /"1-" is neither/],
    ['-3', /"-3" is neither/],
    ['a', /"a" is neither/],
    ['1.5', /neither/],
    ['0', /count from 1/],
    ['3-1', /3-1 is descending/],
    ['1000001', /1000001 is more than 1000000/],
    ['99999999999999999999', /neither/],
    ['1,'.repeat(501), /longer than 1000/],
  ])('refuses %j with the reason', (text, message) => {
    expect(() => parsePages(text)).toThrow(
      expect.objectContaining({ code: 'invalid_request', status: 400, message: expect.stringMatching(message) }),
    );
  });
});

describe('selectPages', () => {
  test('no selection means every page', () => expect(selectPages(null, 12)).toEqual([[1, 12]]));

  test('a selection within the document is unchanged', () =>
    expect(
      selectPages(
        [
          [1, 2],
          [12, 12],
        ],
        12,
      ),
    ).toEqual([
      [1, 2],
      [12, 12],
    ]));

  test('names the first missing page and the page count', () => {
    expect(() =>
      selectPages(
        [
          [1, 2],
          [10, 20],
        ],
        12,
      ),
    ).toThrow(
      expect.objectContaining({ code: 'page_out_of_range', message: expect.stringMatching(/page 13 .* 12 pages/) }),
    );
    expect(() => selectPages([[7, 7]], 1)).toThrow(/page 7 .* 1 page$/);
  });
});
