import sharp from 'sharp';

type Color = [red: number, green: number, blue: number];

const RED: Color = [220, 30, 30];
const GREEN: Color = [30, 160, 60];
const BLUE: Color = [30, 60, 200];
const YELLOW: Color = [240, 220, 40];
const BLACK: Color = [0, 0, 0];

/** At which the samples are converted: two pixels for each point. */
export const DPI = 144;

/** What a page must be: its size in pixels, and the colour at places given as fractions of its sides. */
export interface ExpectedPage {
  original: number;
  page: number;
  width: number;
  height: number;
  reduced: boolean;
  colors: [x: number, y: number, color: Color][];
}

const middle = (color: Color): ExpectedPage['colors'] => [
  [0.5, 0.5, color],
  // The corner that is black on every page of ours, and in no other corner.
  [0.03, 0.03, BLACK],
  [0.97, 0.97, color],
];

/** What PDF and PNG of `makeSamples` must become. The last page of the PDF does not fit at this resolution. */
export const EXPECTED: ExpectedPage[] = [
  { original: 1, page: 1, width: 400, height: 600, reduced: false, colors: middle(RED) },
  { original: 1, page: 2, width: 600, height: 400, reduced: false, colors: middle(BLUE) },
  { original: 1, page: 3, width: 3499, height: 1750, reduced: true, colors: middle(YELLOW) },
  {
    original: 2,
    page: 1,
    width: 60,
    height: 40,
    reduced: false,
    colors: [
      [0.2, 0.5, GREEN],
      [0.8, 0.5, BLUE],
    ],
  },
];

export async function makeSamples(): Promise<{ pdf: Buffer<ArrayBuffer>; png: Buffer<ArrayBuffer> }> {
  return {
    pdf: makePdf([
      { width: 200, height: 300, color: RED },
      { width: 300, height: 200, color: BLUE },
      { width: 2_000, height: 1_000, color: YELLOW },
    ]),
    png: await makePng(),
  };
}

/** Takes a while at 600 dpi, on any machine. */
export function makeLongPdf(): Buffer<ArrayBuffer> {
  return makePdf(Array.from({ length: 40 }, () => ({ width: 419, height: 419, color: RED })));
}

/** A PDF whose pages, in points, are filled with a colour; the top left tenth of each is black. */
function makePdf(pages: { width: number; height: number; color: Color }[]): Buffer<ArrayBuffer> {
  const kids = pages.map((_, index) => `${3 + 2 * index} 0 R`).join(' ');
  const objects = [
    '<< /Type /Catalog /Pages 2 0 R >>',
    `<< /Type /Pages /Kids [${kids}] /Count ${pages.length} >>`,
    ...pages.flatMap(({ width, height, color }, index) => {
      const fill = color.map((value) => (value / 255).toFixed(4)).join(' ');
      const drawing = `${fill} rg 0 0 ${width} ${height} re f 0 g 0 ${height * 0.9} ${width / 10} ${height / 10} re f`;
      return [
        `<< /Type /Page /Parent 2 0 R /MediaBox [0 0 ${width} ${height}] /Contents ${4 + 2 * index} 0 R >>`,
        `<< /Length ${drawing.length} >>\nstream\n${drawing}\nendstream`,
      ];
    }),
  ];
  let body = '%PDF-1.7\n';
  const table = objects.map((object, index) => {
    const offset = String(body.length).padStart(10, '0');
    body += `${index + 1} 0 obj\n${object}\nendobj\n`;
    return `${offset} 00000 n \n`;
  });
  const size = objects.length + 1;
  return Buffer.from(
    `${body}xref\n0 ${size}\n0000000000 65535 f \n${table.join('')}` +
      `trailer\n<< /Size ${size} /Root 1 0 R >>\nstartxref\n${body.length}\n%%EOF\n`,
    'latin1',
  );
}

/** Green on the left and blue on the right. */
async function makePng(): Promise<Buffer<ArrayBuffer>> {
  const half = (color: Color) => Array.from({ length: 30 }, () => color).flat();
  const row = [...half(GREEN), ...half(BLUE)];
  const pixels = Buffer.from(Array.from({ length: 40 }, () => row).flat());
  return Buffer.from(
    await sharp(pixels, { raw: { width: 60, height: 40, channels: 3 } })
      .png()
      .toBuffer(),
  );
}

const PNG_SIGNATURE = Buffer.from('\x89PNG\r\n\x1a\n', 'latin1');

/** Throws an error that says in what a page's bytes differ from what they must be. */
export async function comparePage(bytes: Buffer, expected: ExpectedPage): Promise<void> {
  const what = `page ${expected.page} of original ${expected.original}`;
  if (!bytes.subarray(0, 8).equals(PNG_SIGNATURE)) throw new Error(`${what} is no PNG`);
  const { data, info } = await sharp(bytes)
    .removeAlpha()
    .toColourspace('srgb')
    .raw()
    .toBuffer({ resolveWithObject: true });
  if (info.width !== expected.width || info.height !== expected.height) {
    throw new Error(`${what} is ${info.width}x${info.height}, not ${expected.width}x${expected.height}`);
  }
  for (const [x, y, color] of expected.colors) {
    const at = (Math.floor(y * info.height) * info.width + Math.floor(x * info.width)) * info.channels;
    const found = [...data.subarray(at, at + 3)];
    if (!color.every((value, channel) => Math.abs(value - (found[channel] as number)) <= 3)) {
      throw new Error(`${what} is ${found} where it must be ${color}`);
    }
  }
}
