import { readdir, readFile, stat } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import { deflateSync } from 'node:zlib';
import sharp from 'sharp';
import { detectType } from '../../api/uploads/file-type.ts';
import { pdfOfImage, pngOfZeros } from '../../bench/hostile-images.ts';
import { encryptedPdf, GREEN, makeImage, makePdf, RED } from '../support/files.ts';
import { embeddedFont, readTrueType } from '../support/font.ts';
import { onePagePdf, streamObject } from '../support/pdf.ts';

/** A sound file that mutants are made from. */
export interface Seed {
  name: string;
  kind: 'pdf' | 'png' | 'jpeg';
  bytes: Buffer;
}

/** The password that opens the encrypted seeds. */
export const PASSWORD = 'secret';

/** A larger file takes long to convert and gives few damaged structures. */
const MAX_SEED_BYTES = 200_000;
const SIDE = 24;
const KINDS = { 'application/pdf': 'pdf', 'image/png': 'png', 'image/jpeg': 'jpeg' } as const;

/** Small files that use many parts of the formats, always the same. */
export async function makeSeeds(): Promise<Seed[]> {
  const files = { ...(await structures()), ...(await imagesInPdfs()), ...contents(), ...(await images()) };
  return Object.entries(files).map(([name, bytes]) => ({ name, kind: kindOf(bytes), bytes }));
}

/** The PDFs, PNGs and JPEGs of a folder that are small enough, in the order of their names. */
export async function readSeeds(folder: string): Promise<Seed[]> {
  const names = (await readdir(folder, { recursive: true })).sort();
  const seeds = names.map(async (name): Promise<Seed[]> => {
    const file = path.join(folder, name);
    const stats = await stat(file);
    if (!stats.isFile() || stats.size > MAX_SEED_BYTES) return [];
    const bytes = await readFile(file);
    const type = detectType(bytes);
    return type === null ? [] : [{ name, kind: KINDS[type], bytes }];
  });
  return (await Promise.all(seeds)).flat();
}

function kindOf(bytes: Buffer): Seed['kind'] {
  const type = detectType(bytes);
  if (type === null) throw new Error('a seed is neither PDF, PNG nor JPEG');
  return KINDS[type];
}

/** Page trees, compressed objects, encryption, forms and annotations. */
async function structures() {
  const widget =
    '<< /Type /Annot /Subtype /Widget /FT /Tx /T (name) /V (value) /Rect [20 20 120 40] /DA (/Helv 12 Tf 0 g) >>';
  const stamps = ['Square', 'Line', 'Ink', 'FreeText', 'Stamp', 'Text']
    .map(
      (kind) => `<< /Type /Annot /Subtype /${kind} /Rect [10 10 90 90] /C [1 0 0] /L [10 10 80 80] /DA (/Helv 9 Tf) >>`,
    )
    .join(' ');
  return {
    'pages.pdf': await makePdf([
      { color: RED, text: 'one', rotate: 90 },
      { color: GREEN, text: 'two', userUnit: 2 },
      { color: RED },
    ]),
    'encrypted.pdf': encryptedPdf(PASSWORD),
    'form.pdf': onePagePdf({ page: '/Annots [5 0 R]', catalog: '/AcroForm << /Fields [5 0 R] >>', objects: [widget] }),
    'annotations.pdf': onePagePdf({ page: `/Annots [${stamps}]` }),
  };
}

/** One page with an image for each filter. */
async function imagesInPdfs() {
  const size = { width: SIDE, height: SIDE };
  const jpeg = await makeImage({ ...size, format: 'jpeg' });
  const rows = Buffer.from(Array.from({ length: SIDE * SIDE * 3 }, (_, at) => (at * 37) & 255));
  const coded = (filter: string, data: Buffer | string, colors = '/DeviceGray', bits = 8, more = '') =>
    onePagePdf({
      content: 'q 150 0 0 150 20 20 cm /Im0 Do Q',
      resources: '/XObject << /Im0 5 0 R >>',
      objects: [
        streamObject(
          `/Type /XObject /Subtype /Image /Width ${SIDE} /Height ${SIDE} /ColorSpace ${colors} ` +
            `/BitsPerComponent ${bits} /Filter ${filter} ${more}`,
          data,
        ),
        streamObject('/FunctionType 4 /Domain [0 1] /Range [0 1 0 1 0 1]', '{ dup dup 0.5 mul exch }'),
      ],
    });
  const predictor = `/DecodeParms << /Predictor 15 /Colors 3 /Columns ${SIDE} >>`;
  const filtered = Buffer.concat(
    Array.from({ length: SIDE }, (_, row) =>
      Buffer.concat([Buffer.from([row % 5]), rows.subarray(row * SIDE * 3, (row + 1) * SIDE * 3)]),
    ),
  );
  return {
    'dct.pdf': await pdfOfImage({ ...size, filter: 'DCTDecode', data: jpeg }),
    'flate.pdf': await pdfOfImage({ ...size, filter: 'FlateDecode', data: deflateSync(rows) }),
    'predictor.pdf': coded('/FlateDecode', deflateSync(filtered), '/DeviceRGB', 8, predictor),
    'indexed.pdf': coded(
      '/ASCIIHexDecode',
      `${'0123'.repeat(SIDE * 6)}>`,
      '[/Indexed /DeviceRGB 3 <ff000000ff000000ff102030>]',
      4,
    ),
    'separation.pdf': coded('/FlateDecode', deflateSync(rows), '[/Separation /Spot /DeviceRGB 6 0 R]'),
    'fax.pdf': coded(
      '/CCITTFaxDecode',
      rows.subarray(0, 90),
      '/DeviceGray',
      1,
      `/DecodeParms << /K -1 /Columns ${SIDE} /Rows ${SIDE} >>`,
    ),
    'run-length.pdf': coded('/RunLengthDecode', Buffer.from([...Array(72).fill([0xf9, 0x80]).flat(), 0x80])),
    'mask.pdf': coded('/FlateDecode', deflateSync(rows), '/DeviceRGB', 8, '/SMask 5 0 R /Decode [1 0 0 1 0 1]'),
  };
}

/** Content streams: text in fonts of each kind, shadings, patterns, forms, transparency, an inline image. */
function contents() {
  const font = readTrueType(
    createRequire(import.meta.url).resolve('@expo-google-fonts/caladea/400Regular/Caladea_400Regular.ttf'),
  );
  const letters = 'Sheet';
  const codes = [...letters].map((letter) => font.glyphOf(letter).toString(16).padStart(4, '0')).join('');
  const fonts = '/Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> /F2 5 0 R >>';
  return {
    'text.pdf': onePagePdf({
      content: 'BT /F1 24 Tf 20 200 Td (Some words) Tj 1 Tr /F2 18 Tf 0 -40 Td (\\101\\102) Tj ET',
      resources: fonts,
      objects: [
        '<< /Type /Font /Subtype /Type3 /FontBBox [0 0 9 9] /FontMatrix [.1 0 0 .1 0 0] /FirstChar 65 /LastChar 66 ' +
          '/Widths [9 9] /Encoding << /Differences [65 /a /b] >> /CharProcs << /a 6 0 R /b 6 0 R >> >>',
        streamObject('', '9 0 d0 0 0 5 5 re f'),
      ],
    }),
    'embedded-font.pdf': onePagePdf({
      content: `BT /F 30 Tf 10 100 Td <${codes}> Tj ET`,
      resources: '/Font << /F 5 0 R >>',
      objects: embeddedFont(font, letters, 5),
    }),
    'paint.pdf': onePagePdf({
      content:
        '/G gs /S sh /Pattern cs /P scn 0 0 100 100 re f /X Do 3 w 0 0 m 99 9 9 99 50 50 c s 9 9 50 50 re W n q Q',
      resources:
        '/ExtGState << /G << /ca .5 /BM /Multiply >> >> /Pattern << /P 6 0 R >> /XObject << /X 7 0 R >> ' +
        '/Shading << /S << /ShadingType 3 /ColorSpace /DeviceRGB /Coords [50 50 0 90 90 80] /Function 5 0 R >> >>',
      objects: [
        '<< /FunctionType 2 /Domain [0 1] /C0 [1 0 0] /C1 [0 0 1] /N 1.5 >>',
        streamObject(
          '/PatternType 1 /PaintType 1 /TilingType 1 /BBox [0 0 9 9] /XStep 9 /YStep 9 /Resources << >>',
          '0 1 0 rg 0 0 4 4 re f',
        ),
        streamObject(
          '/Type /XObject /Subtype /Form /BBox [0 0 99 99] /Group << /S /Transparency /I true >>',
          '0 0 50 50 re f',
        ),
      ],
    }),
    'inline-image.pdf': onePagePdf({
      content: 'q 90 0 0 90 9 9 cm BI /W 2 /H 2 /CS /RGB /BPC 8 /F /AHx ID ff000000ff000000ffffffff> EI Q',
    }),
  };
}

async function images() {
  const size = { width: SIDE, height: SIDE };
  const pattern = Buffer.from(Array.from({ length: SIDE * SIDE * 3 }, (_, at) => (at * at) & 255));
  const colorful = sharp(pattern, { raw: { ...size, channels: 3 } });
  return {
    'plain.png': await makeImage(size),
    'palette.png': await makeImage({ ...size, palette: true }),
    'alpha.png': await makeImage({ ...size, alpha: 0.5 }),
    'profile.png': await makeImage({ ...size, space: 'p3' }),
    'interlaced.png': pngOfZeros(SIDE, SIDE, { interlaced: true }),
    'deep.png': pngOfZeros(SIDE, SIDE, { depth: 16 }),
    'bilevel.png': pngOfZeros(SIDE, SIDE, { depth: 1, rgb: false }),
    'plain.jpg': await makeImage({ ...size, format: 'jpeg' }),
    'progressive.jpg': await makeImage({ ...size, format: 'jpeg', progressive: true }),
    'cmyk.jpg': await makeImage({ ...size, format: 'jpeg', space: 'cmyk' }),
    'grey.jpg': await makeImage({ ...size, format: 'jpeg', space: 'grey' }),
    'turned.jpg': await colorful.withMetadata({ orientation: 6 }).jpeg({ chromaSubsampling: '4:2:0' }).toBuffer(),
  };
}
