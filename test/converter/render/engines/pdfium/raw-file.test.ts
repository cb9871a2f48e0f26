import { deflateRawSync, deflateSync, constants as zlib } from 'node:zlib';
import {
  findDamage,
  hasDamagedContent,
  isDamaged,
  mayHaveUserUnit,
  mayPaint,
  userUnitOf,
} from '../../../../../converter/render/engines/pdfium/raw-file.ts';
import { encryptedPdf, makePdf, RED, writePdf } from '../../../../support/files.ts';
import { onePagePdf, streamObject } from '../../../../support/pdf.ts';

/** In PDFs of onePagePdf. */
const PAGE = 3;
/** Does not compress away. */
const NUMBERS = Buffer.from(Array.from({ length: 3000 }, (_, index) => (index * 7919) % 1009).join(' '));

describe('the UserUnit of a page', () => {
  test.each([
    ['2.5', 2.5],
    ['.5', 0.5],
    ['3', 3],
    ['0', 1],
    ['-2', 1],
    ['(x)', 1],
  ])('%s counts as %d', (entry, unit) => {
    expect(userUnitOf(onePagePdf({ page: `/UserUnit ${entry}` }), PAGE)).toBe(unit);
  });

  test('is read from the page, not from another object', () => {
    const pdf = writePdf(['<< /UserUnit 7 >>', ...Array(11).fill('<< >>'), '<< /UserUnit 2 >>'], '');
    expect([1, 2, 3, 13, 14].map((number) => userUnitOf(pdf, number))).toEqual([7, 1, 1, 2, 1]);
  });

  test('may be in an object stream', async () => {
    const pdf = await makePdf([{ color: RED, userUnit: 4 }]);
    const units = Array.from({ length: 12 }, (_, number) => userUnitOf(pdf, number));
    expect(units.filter((unit) => unit === 4)).toHaveLength(1);
    expect(mayHaveUserUnit(pdf)).toBe(true);
  });

  test('is absent where the name does not occur', async () => {
    expect(mayHaveUserUnit(onePagePdf({}))).toBe(false);
    expect(mayHaveUserUnit(await makePdf([{ color: RED }]))).toBe(false);
    expect(mayHaveUserUnit(onePagePdf({ page: '/UserUnit 1' }))).toBe(true);
  });
});

describe('the content of a page', () => {
  test.each([
    '0 0 9 9 re f',
    '0 0 m 9 9 l S',
    'BT (x) Tj ET',
    'BT [(x) 5 (y)]TJ ET',
    "BT (x) ' ET",
    '/Im Do',
    '/Sh sh',
    'BI /W 1 /H 1 /BPC 8 /CS /G ID x EI',
    '0 0 9 9 re B*',
    '0 0 9 9 re\nb',
  ])('may paint: %j', (content) => {
    expect(mayPaint(onePagePdf({ content }), PAGE)).toBe(true);
  });

  test.each(['', ' ', 'q Q', '0 0 9 9 re W n', '1 0 0 rg /GS gs 2 w', 'BT /F 12 Tf 10 10 Td ET', '/Span BMC EMC'])(
    'paints nothing: %j',
    (content) => {
      expect(mayPaint(onePagePdf({ content }), PAGE)).toBe(false);
    },
  );

  const page = (entries: string, ...objects: string[]) =>
    writePdf(['<< /Type /Catalog >>', '<< /Type /Pages >>', `<< /Type /Page ${entries} >>`, ...objects], '');
  const nothing = streamObject('', 'q Q');

  test('may paint in any of several streams, compressed or not', () => {
    const painting = streamObject('/Filter /FlateDecode', deflateSync('0 0 9 9 re f'));
    expect(mayPaint(page('/Contents [4 0 R 5 0 R]', nothing, painting), PAGE)).toBe(true);
    expect(mayPaint(page('/Contents [4 0 R 5 0 R]', nothing, nothing), PAGE)).toBe(false);
  });

  test.each([
    ['in an unknown filter', page('/Contents 4 0 R', streamObject('/Filter /LZWDecode', 'xxx'))],
    [
      'in a damaged stream',
      page('/Contents 4 0 R', streamObject('/Filter /FlateDecode', deflateSync(NUMBERS).subarray(0, 99))),
    ],
    ['in an object that is missing', page('/Contents 4 0 R')],
    ['in an encrypted file', encryptedPdf('secret')],
    ['in an object that is not a page', writePdf(['<< >>', '<< >>', '<< /Type /Pages /Kids [] >>'], '')],
    ['in a page that is missing', writePdf(['<< >>'], '')],
  ])('may paint if it is unknown: %s', (_, pdf) => {
    expect(mayPaint(pdf, PAGE)).toBe(true);
  });

  test('paints nothing if it is absent', () => {
    expect(mayPaint(page(''), PAGE)).toBe(false);
  });
});

describe('Flate data', () => {
  const whole = deflateSync(NUMBERS);

  test.each([
    ['whole', whole],
    ['without its checksum', whole.subarray(0, -4)],
    ['with a part of its checksum', whole.subarray(0, -2)],
    ['with a line end in place of its checksum', Buffer.concat([whole.subarray(0, -4), Buffer.from('\r\n')])],
    ['with bytes behind it', Buffer.concat([whole, Buffer.from('\nmore')])],
    ['that ends with a flush', deflateSync(NUMBERS, { finishFlush: zlib.Z_SYNC_FLUSH })],
    ['with another header', Buffer.concat([Buffer.from([0x08, 0x1d]), deflateRawSync(NUMBERS)])],
    ['that is empty', Buffer.alloc(0)],
    ['beyond the examined length', deflateSync(Buffer.alloc(2 ** 25))],
  ])('%s is sound', (_, data) => {
    expect(isDamaged(data)).toBe(false);
  });

  test.each([
    ['cut at 90%', whole.subarray(0, whole.length * 0.9)],
    ['cut at 50%', whole.subarray(0, whole.length * 0.5)],
    ['cut in its first block', whole.subarray(0, 20)],
    ['garbled', Buffer.from(whole).fill(0xaa, 1000, 1020)],
    ['with one wrong bit', Buffer.from(whole).fill((whole[1000] ?? 0) ^ 1, 1000, 1001)],
    ['that is text', Buffer.from('this is no Flate data')],
  ])('%s is damaged', (_, data) => {
    expect(isDamaged(data)).toBe(true);
  });
});

describe('damage of a file', () => {
  const whole = deflateSync(NUMBERS);
  const cut = whole.subarray(0, whole.length / 2);
  const withStream = (dictionary: string, data: Buffer) => onePagePdf({ objects: [streamObject(dictionary, data)] });
  const none = { shared: false, content: false };

  test('is found in its Flate streams', () => {
    const content = { shared: false, content: true };
    expect(findDamage(withStream('/Filter /FlateDecode', cut))).toEqual(content);
    expect(findDamage(withStream('/Filter [/FlateDecode]', cut))).toEqual(content);
    const inside = withStream('/Filter /FlateDecode', whole);
    const end = inside.indexOf('endstream', inside.indexOf('/FlateDecode'));
    expect(findDamage(inside.subarray(0, end - 1000))).toEqual(content);
  });

  test.each(['/Subtype /Form', '/Type /ObjStm /N 3', '/Length1 900', '/Subtype /Type1C'])(
    'concerns any page if it is in a stream with %s',
    (entries) => {
      expect(findDamage(withStream(`${entries} /Filter /FlateDecode`, cut))).toEqual({ shared: true, content: false });
    },
  );

  test.each([
    ['they are whole', withStream('/Filter /FlateDecode', whole)],
    ['it is an image, which is looked at where it is drawn', withStream('/Subtype /Image /Filter /FlateDecode', cut)],
    ['another filter comes first', withStream('/Filter [/ASCII85Decode /FlateDecode]', cut)],
    [
      'the file is encrypted',
      onePagePdf({ objects: [streamObject('/Filter /FlateDecode', cut)], trailer: '/Encrypt 9 0 R' }),
    ],
    ['there is none', onePagePdf({})],
  ])('is not reported when %s', (_, pdf) => {
    expect(findDamage(pdf)).toEqual(none);
  });

  test('is not reported in files of many programs', async () => {
    expect(findDamage(await makePdf(Array(5).fill({ color: RED, text: 'sheet' })))).toEqual(none);
  });

  test('is not reported when the length of a stream is wrong or in another object', () => {
    const stream = streamObject('/Filter /FlateDecode', whole);
    for (const length of ['/Length 5', '/Length 999999', '/Length 6 0 R', '']) {
      const pdf = onePagePdf({ objects: [stream.replace(/\/Length \d+/, length), `${whole.length}`] });
      expect(findDamage(pdf)).toEqual(none);
    }
  });

  test('belongs to a page when the content of the page is damaged', () => {
    const pages = (...contents: string[]) =>
      writePdf(
        contents
          .map((content) => `<< /Type /Page /Contents ${content} >>`)
          .concat(
            streamObject('/Filter /FlateDecode', whole),
            streamObject('/Filter /FlateDecode', cut),
            streamObject('', NUMBERS),
          ),
        '',
      );
    const pdf = pages('4 0 R', '5 0 R', '[6 0 R 5 0 R]');
    expect([1, 2, 3, 4, 99].map((page) => hasDamagedContent(pdf, page))).toEqual([false, true, true, true, true]);
  });
});
