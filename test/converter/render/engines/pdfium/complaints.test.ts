import { deflateSync } from 'node:zlib';
import sharp from 'sharp';
import { writePdf } from '../../../../support/files.ts';
import { drawPdf, inkOf, type OnePage, onePagePdf, streamObject } from '../../../../support/pdf.ts';

const SIDE = 100;
/** Noise, so that no row of it is of one colour. */
const NOISE = Buffer.from(Array.from({ length: SIDE * SIDE * 3 }, (_, index) => ((index * 7919) >> 3) & 255));
const FLATE = deflateSync(NOISE);
const SQUARE = '0 0 50 50 re f';

async function complaintsOf(page: OnePage): Promise<string[]> {
  return (await drawPdf(onePagePdf(page))).complaints;
}

/** A page with a black square and an image. */
function withImage(
  dictionary: string,
  data: Buffer,
  content = `${SQUARE} q 100 0 0 100 50 50 cm /Image Do Q`,
): OnePage {
  const size = `/Width ${SIDE} /Height ${SIDE} /BitsPerComponent 8 /ColorSpace /DeviceRGB`;
  return {
    content,
    resources: '/XObject << /Image 5 0 R >>',
    objects: [streamObject(`/Subtype /Image ${size} ${dictionary}`, data)],
  };
}

describe('a white page', () => {
  test.each([
    ['without content', {}],
    ['with operators that paint nothing', { content: 'q 0 0 9 9 re W n Q' }],
    ['with a link', { page: '/Annots [<< /Subtype /Link /Rect [0 0 9 9] /Border [0 0 0] >>]' }],
    ['with a popup', { page: '/Annots [<< /Subtype /Popup /Rect [0 0 9 9] >>]' }],
    ['with a hidden annotation', { page: '/Annots [<< /Subtype /Square /F 2 /Rect [0 0 9 9] >>]' }],
  ])('%s has no complaint', async (_, page) => {
    expect(await complaintsOf(page)).toEqual([]);
  });
});

describe('a blank page', () => {
  test.each<[string, OnePage]>([
    ['with white shapes', { content: '1 g 0 0 200 300 re f' }],
    ['with a missing XObject', { content: '/Image Do' }],
    ['with missing content', { page: '/Contents 9 0 R' }],
    ['with an annotation', { page: '/Annots [<< /Subtype /Movie /Rect [0 0 9 9] >>]' }],
  ])('%s has the complaint that nothing was drawn', async (_, page) => {
    const pdf = onePagePdf(page).toString('latin1');
    // The last entry of a name counts; the page has a content stream.
    const data = page.page?.startsWith('/Contents') ? pdf.replace('/Contents 4 0 R', '') : pdf;
    const drawn = await drawPdf(Buffer.from(data, 'latin1'));
    expect([inkOf(drawn), drawn.complaints]).toEqual([0, ['nothing was drawn']]);
  });
});

describe('images', () => {
  test.each([
    ['in Flate', '/Filter /FlateDecode', FLATE],
    ['in Flate without a checksum', '/Filter /FlateDecode', FLATE.subarray(0, -4)],
    ['in no filter', '', NOISE],
    ['in one colour', '/Filter /FlateDecode', deflateSync(Buffer.alloc(NOISE.length, 70))],
    ['in white', '/Filter /FlateDecode', deflateSync(Buffer.alloc(NOISE.length, 255))],
    ['with two filters', '/Filter [/ASCIIHexDecode /FlateDecode]', Buffer.from(FLATE.toString('hex'))],
  ])('%s are complete', async (_, filter, data) => {
    expect(await complaintsOf(withImage(filter, data))).toEqual([]);
  });

  test.each([0.9, 0.5, 0.1, 0.01])('in Flate that are cut at %d are damaged', async (share) => {
    const cut = FLATE.subarray(0, Math.floor(FLATE.length * share));
    expect(await complaintsOf(withImage('/Filter /FlateDecode', cut))).toEqual(['an image is damaged']);
  });

  test('within forms are examined', async () => {
    const [image = ''] = withImage('/Filter /FlateDecode', FLATE.subarray(0, FLATE.length / 2)).objects ?? [];
    const form = streamObject(
      '/Subtype /Form /BBox [0 0 200 300] /Resources << /XObject << /Image 5 0 R >> >>',
      '100 0 0 100 50 50 cm /Image Do',
    );
    const page = { content: `${SQUARE} /Form Do`, resources: '/XObject << /Form 6 0 R >>', objects: [image, form] };
    expect(await complaintsOf(page)).toEqual(['an image is damaged']);
  });

  test('in JPEG are damaged when they are cut', async () => {
    const jpeg = await sharp(NOISE, { raw: { width: SIDE, height: SIDE, channels: 3 } })
      .jpeg()
      .toBuffer();
    const withJpeg = (data: Buffer) => complaintsOf(withImage('/Filter /DCTDecode', data));
    expect(await withJpeg(jpeg)).toEqual([]);
    expect(await withJpeg(Buffer.concat([jpeg, Buffer.alloc(500)]))).toEqual([]);
    for (const share of [0.99, 0.5, 0.1]) {
      expect(await withJpeg(jpeg.subarray(0, Math.floor(jpeg.length * share)))).toEqual(['an image is damaged']);
    }
  });

  test('that cannot be decoded are missing', async () => {
    expect(await complaintsOf(withImage('/Filter /JPXDecode', Buffer.from('no JPX')))).toEqual([
      'an image cannot be decoded',
    ]);
    expect(await complaintsOf(withImage('/Filter /DCTDecode', Buffer.from('no JPEG')))).toEqual([
      'an image is damaged',
    ]);
  });

  test('outside of the page are ignored', async () => {
    const content = `${SQUARE} q 100 0 0 100 500 500 cm /Image Do Q`;
    expect(await complaintsOf(withImage('/Filter /FlateDecode', FLATE.subarray(0, 99), content))).toEqual([]);
  });
});

describe('streams', () => {
  const cut = FLATE.subarray(0, FLATE.length / 2);

  test('a damaged stream that many pages may use is a complaint about each page', async () => {
    const form = streamObject('/Subtype /Form /Filter /FlateDecode', cut);
    expect(await complaintsOf({ content: SQUARE, objects: [form] })).toEqual(['a stream of the file is damaged']);
    expect(await complaintsOf({ objects: [form] })).toEqual([]);
  });

  test('a damaged stream of one page is a complaint about that page', async () => {
    const bars = Array.from({ length: 99 }, (_, row) => `0 ${row} ${(row * 7919) % 199} 1 re f`).join('\n');
    const damaged = streamObject('/Filter /FlateDecode', deflateSync(bars).subarray(0, 200));
    const page = (content: number) =>
      `<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 300] /Contents ${content} 0 R >>`;
    const pdf = writePdf(
      [
        ...['<< /Type /Catalog /Pages 2 0 R >>', '<< /Type /Pages /Kids [3 0 R 4 0 R] /Count 2 >>'],
        ...[page(5), page(6), damaged, streamObject('', SQUARE)],
      ],
      '',
    );
    expect((await drawPdf(pdf)).complaints).toEqual(['the content of the page is damaged']);
    expect((await drawPdf(pdf, { page: 2 })).complaints).toEqual([]);
  });
});

test('each complaint is listed once', async () => {
  const content = `${SQUARE} q 50 0 0 50 50 50 cm /Image Do Q q 50 0 0 50 100 100 cm /Image Do Q`;
  expect(await complaintsOf(withImage('/Filter /FlateDecode', FLATE.subarray(0, FLATE.length / 2), content))).toEqual([
    'an image is damaged',
  ]);
});
