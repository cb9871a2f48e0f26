import sharp from 'sharp';
import { type Distance, distanceOf, FAR, type Grid, gridFor, oddity, type Place, toGrid } from './compare.ts';
import { type DrawnPage, PAGE_TIMEOUT_SECONDS, type PageResult } from './convert.ts';
import { drawWith, type Tool, type ToolName } from './tools.ts';

/** Sizes that differ by less come from rounding. */
const SIZE_TOLERANCE = { pixels: 2, share: 0.005 };
/** The darkest value that counts as an empty page. */
const PAPER = 250;
const PREVIEW = { width: 380, height: 560 };

export type Drawer = 'sheetmill' | ToolName;

interface ByTool {
  error: string | null;
  width: number | null;
  height: number | null;
  /** From sheetmill's page. */
  distance: number | null;
  /** Nothing is on the page that the tool made; null without one. */
  is_blank: boolean | null;
}

/** The facts about one page: one row of `pages.json`. */
export interface PageRow {
  file: string;
  page: number | null;
  result: PageResult['result'];
  code: string | null;
  message: string | null;
  engine: string | null;
  note: string | null;
  width: number | null;
  height: number | null;
  seconds: number;
  is_slow: boolean;
  tools: Partial<Record<ToolName, ByTool>>;
  /** How far the two tools are from each other. */
  tool_distance: number | null;
  /** How far the page is from both tools at a place where those agree. */
  distance: number | null;
  is_outlier: boolean;
  /** The page differs in size from what every installed tool made of it. */
  is_other_size: boolean;
}

/** A row with what is needed to draw its previews, as long as the pictures are there. */
export interface Examined {
  row: PageRow;
  pictures: Partial<Record<Drawer, string>>;
  place: Place | null;
}

export interface ExamineOptions {
  file: string;
  /** As the report shows it. */
  name: string;
  tools: Tool[];
  dpi: number;
  folder: string;
  signal: AbortSignal;
}

/** A picture that could be read, with its size. */
interface Readable {
  picture: string;
  width: number;
  height: number;
  isBlank: boolean;
}

/** Draws the page with the tools, too, and measures how far the pictures are from each other. */
export async function examine(result: PageResult, options: ExamineOptions): Promise<Examined> {
  const dpi = result.result === 'drawn' ? result.dpi : options.dpi;
  const row = emptyRow(options.name, result);
  const examined: Examined = { row, pictures: {}, place: null };
  const readable = new Map<ToolName, Readable>();
  for (const tool of options.tools) {
    const drawn = await drawWith(tool, { ...options, page: result.page ?? 1, dpi });
    const read = drawn.picture === null ? undefined : await readSize(drawn.picture);
    const error = drawn.error ?? (read ? null : 'its picture cannot be read');
    row.tools[tool.name] = {
      error,
      width: read?.width ?? null,
      height: read?.height ?? null,
      distance: null,
      is_blank: read?.isBlank ?? null,
    };
    if (read === undefined) continue;
    readable.set(tool.name, read);
    examined.pictures[tool.name] = read.picture;
  }
  if (result.result !== 'drawn') return examined;
  examined.pictures.sheetmill = result.picture;
  row.is_other_size = readable.size > 0 && [...readable.values()].every((other) => isOtherSize(result, other));
  examined.place = await measure(row, result, readable);
  return examined;
}

/** How far the page is from the tool that agrees most and from the one that agrees least; 0 without any tool. */
export function distancesOf({ tools }: PageRow): { nearest: number; furthest: number } {
  const distances = Object.values(tools).flatMap(({ distance }) => (distance === null ? [] : [distance]));
  return distances.length === 0
    ? { nearest: 0, furthest: 0 }
    : { nearest: Math.min(...distances), furthest: Math.max(...distances) };
}

/** A small picture as a data URI, with a frame around the place that differs. */
export async function toPreview(picture: string, place: Place | null): Promise<string> {
  const { data, info } = await sharp(picture)
    .flatten({ background: 'white' })
    .toColourspace('srgb')
    .resize({ ...PREVIEW, fit: 'inside', withoutEnlargement: false })
    .png()
    .toBuffer({ resolveWithObject: true });
  const framed = place === null ? sharp(data) : sharp(data).composite([{ input: frame(place, info) }]);
  return `data:image/webp;base64,${(await framed.webp({ quality: 75 }).toBuffer()).toString('base64')}`;
}

/** Fills in the distances; gives the place of the largest one. */
async function measure(row: PageRow, page: DrawnPage, others: Map<ToolName, Readable>): Promise<Place | null> {
  const size = gridFor(page);
  const ours = await toGrid(page.picture, size);
  const grids: Grid[] = [];
  let furthest: Distance | null = null;
  for (const [name, { picture }] of others) {
    const grid = await toGrid(picture, size);
    const found = distanceOf(ours, grid);
    const tool = row.tools[name];
    if (tool) tool.distance = found.distance;
    if (furthest === null || found.distance > furthest.distance) furthest = found;
    grids.push(grid);
  }
  const [one, other] = grids;
  const place = furthest?.place ?? null;
  if (one === undefined || other === undefined) return place;
  row.tool_distance = distanceOf(one, other).distance;
  const odd = oddity(ours, one, other);
  row.distance = odd.distance;
  row.is_outlier = odd.distance > FAR;
  return row.is_outlier ? odd.place : place;
}

function emptyRow(file: string, result: PageResult): PageRow {
  const drawn = result.result === 'drawn' ? result : null;
  const missing = result.result === 'drawn' ? null : result;
  return {
    file,
    page: result.page,
    result: result.result,
    code: missing?.code ?? null,
    message: missing?.message ?? null,
    engine: drawn?.engine ?? null,
    note: drawn?.note ?? null,
    width: drawn?.width ?? null,
    height: drawn?.height ?? null,
    seconds: result.seconds,
    is_slow: result.seconds > PAGE_TIMEOUT_SECONDS,
    tools: {},
    tool_distance: null,
    distance: null,
    is_outlier: false,
    is_other_size: false,
  };
}

async function readSize(picture: string): Promise<Readable | undefined> {
  try {
    const { width, height } = await sharp(picture).metadata();
    // This reads all pixels, too: a file that was cut short has a header all the same.
    const { channels } = await sharp(picture).flatten({ background: 'white' }).stats();
    return { picture, width, height, isBlank: channels.every(({ min }) => min >= PAPER) };
  } catch {
    return undefined;
  }
}

function isOtherSize(one: { width: number; height: number }, other: { width: number; height: number }): boolean {
  const differs = (a: number, b: number) =>
    Math.abs(a - b) > Math.max(SIZE_TOLERANCE.pixels, SIZE_TOLERANCE.share * Math.max(a, b));
  return differs(one.width, other.width) || differs(one.height, other.height);
}

function frame({ left, top, width, height }: Place, size: { width: number; height: number }): Buffer {
  const box = `x="${left * size.width - 2}" y="${top * size.height - 2}"`;
  const sides = `width="${width * size.width + 4}" height="${height * size.height + 4}"`;
  const rectangle = `<rect ${box} ${sides} fill="none" stroke="#e00" stroke-width="2"/>`;
  return Buffer.from(
    `<svg xmlns="http://www.w3.org/2000/svg" width="${size.width}" height="${size.height}">${rectangle}</svg>`,
  );
}
