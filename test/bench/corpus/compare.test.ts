import sharp from 'sharp';
import { distanceOf, FAR, type Grid, gridFor, oddity, toGrid } from '../../../bench/corpus/compare.ts';

// The service blocks all loaders but two in its process, and test files share one.
sharp.unblock({ operation: ['VipsForeignLoadSvgBuffer'] });

const PAGE = { width: 850, height: 1100 };
const LINE_HEIGHT = 20;
const LINES = 20;
const STROKES = 120;
/** Pictures of one page by several engines are nearer than this. */
const NEAR = FAR / 2;

interface Drawing {
  /** Pixels by which all of it is shifted. */
  shift?: number;
  lineWithoutText?: number;
  image?: boolean;
  block?: string;
  /** How many times as large it is drawn before it is shrunk: other edges, the same page. */
  oversample?: number;
  ink?: string;
}

/** A page of text with an image and a block of colour. */
async function draw({
  shift = 0,
  lineWithoutText,
  image = true,
  block = '#c00',
  oversample = 1,
  ink = '#000',
}: Drawing) {
  const lines = Array.from({ length: LINES }, (_, line) => {
    if (line === lineWithoutText) return '';
    // Strokes of letters: text itself would depend on the fonts of the machine.
    const strokes = Array.from({ length: STROKES }, (_, at) => {
      const isGap = (at + line) % 7 === 0;
      return isGap ? '' : `M${60 + at * 2.8},${105 + line * LINE_HEIGHT}h1.1v${at % 3 === 0 ? -9 : -6}h-1.1z`;
    });
    return `<path d="${strokes.join('')}" fill="${ink}"/>`;
  });
  const photo = image ? '<circle cx="120" cy="1040" r="30" fill="#468"/>' : '';
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${PAGE.width * oversample}" height="${PAGE.height * oversample}"
    viewBox="0 0 ${PAGE.width} ${PAGE.height}"><rect width="100%" height="100%" fill="#fff"/>
    <g transform="translate(${shift} ${shift})">${lines.join('')}${photo}
    <rect x="600" y="1010" width="80" height="50" fill="${block}"/></g></svg>`;
  const picture = await sharp(Buffer.from(svg)).resize(PAGE).png().toBuffer();
  return toGrid(picture, gridFor(PAGE));
}

let page: Grid;
beforeAll(async () => {
  page = await draw({});
});

async function distanceTo(drawing: Drawing): Promise<number> {
  return distanceOf(page, await draw(drawing)).distance;
}

test('the same page has no distance', async () => {
  expect(await distanceTo({})).toBe(0);
});

test.each([
  ['a shift by half a pixel', { shift: 0.5 }],
  ['a shift by one and a half pixels', { shift: 1.5 }],
  ['other antialiasing', { oversample: 3 }],
  ['other antialiasing and a shift', { oversample: 2, shift: 0.4 }],
  ['slightly lighter letters', { ink: '#222' }],
])('%s is near', async (_, drawing) => {
  expect(await distanceTo(drawing)).toBeLessThan(NEAR);
});

test.each([
  ['a missing line of text between others', { lineWithoutText: 10 }],
  ['a missing last line', { lineWithoutText: LINES - 1 }],
  ['a missing image', { image: false }],
  ['a block of another colour', { block: '#06c' }],
  ['a block of another colour that is as dark', { block: '#060' }],
])('%s is far', async (_, drawing) => {
  expect(await distanceTo(drawing)).toBeGreaterThan(FAR);
});

test('the place is where the difference is', async () => {
  const { place } = distanceOf(page, await draw({ image: false }));
  expect(place.left).toBeLessThan(150 / PAGE.width);
  expect(place.top + place.height).toBeGreaterThan(1010 / PAGE.height);
});

test('only a page without a line that the others have is odd', async () => {
  const one = await draw({ oversample: 2 });
  const other = await draw({ shift: 0.5 });
  expect(oddity(await draw({ lineWithoutText: 10 }), one, other).distance).toBeGreaterThan(FAR);
  expect(oddity(page, one, other).distance).toBeLessThan(NEAR);
});

test('no page is odd where the two others disagree', async () => {
  const blue = await draw({ block: '#06c' });
  const green = await draw({ block: '#0a0' });
  expect(oddity(page, blue, green).distance).toBeLessThan(NEAR);
});

test('a difference counts when the others disagree at another place', async () => {
  const blue = await draw({ block: '#06c' });
  const green = await draw({ block: '#0a0' });
  expect(oddity(await draw({ image: false }), blue, green).distance).toBeGreaterThan(FAR);
});

test.each([
  [
    { width: 850, height: 1100 },
    { width: 160, height: 207 },
  ],
  [
    { width: 100, height: 20 },
    { width: 25, height: 5 },
  ],
  [
    { width: 1, height: 1 },
    { width: 1, height: 1 },
  ],
  [
    { width: 3499, height: 1 },
    { width: 160, height: 1 },
  ],
  [
    { width: 10, height: 3499 },
    { width: 3, height: 640 },
  ],
])('a page of %j has a grid of %j', (size, grid) => {
  expect(gridFor(size)).toEqual(grid);
});

test.each([1, 2, 3])('a page of %i x 1 pixels can be compared', async (width) => {
  const size = { width, height: 1 };
  const paint = (background: string) =>
    sharp({ create: { ...size, channels: 3, background } })
      .png()
      .toBuffer();
  const [black, white] = [await paint('#000'), await paint('#fff')];
  const distance = distanceOf(await toGrid(black, gridFor(size)), await toGrid(white, gridFor(size)));
  expect(distance.distance).toBe(1);
});

test('grey, transparent and coloured pictures of the same page are the same', async () => {
  const create = { ...PAGE, channels: 4, background: { r: 0, g: 0, b: 0, alpha: 0 } } as const;
  const transparent = await sharp({ create }).png().toBuffer();
  const grey = await sharp({ create: { ...PAGE, channels: 3, background: '#fff' } })
    .toColourspace('b-w')
    .png()
    .toBuffer();
  expect((await sharp(grey).metadata()).channels).toBe(1);
  const size = gridFor(PAGE);
  expect(distanceOf(await toGrid(transparent, size), await toGrid(grey, size)).distance).toBe(0);
});
