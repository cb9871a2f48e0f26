import sharp from 'sharp';

/**
 * Measures the distance between pictures of one page as a person would see it: a missing line of text counts, edges of
 * letters do not. A mean over the page cannot distinguish them, because a missing line is a smaller part of a page than
 * all edges. So pictures are compared place by place, and the worst place counts.
 */

/** Cells across a page: a letter is a grey spot of one or two of them. */
const GRID_WIDTH = 160;
/** A cell averages this many pixels a side at least, or antialiasing would count on small pages. */
const MIN_PIXELS_A_CELL = 4;
const MAX_GRID_HEIGHT = 640;
const BLUR_CELLS = 0.8;
/** A place is as large as some words of a line, lying or standing. */
const PLACES = [
  { width: 16, height: 4 },
  { width: 4, height: 16 },
] as const;
/** Two tools agree on a place where they are this many times nearer to each other than to the page. */
const AGREEMENT_FACTOR = 2;
/** An odd place further than this makes the page an outlier. Calibrated: see `docs/evaluation_results.md`, "Fidelity". */
export const FAR = 0.05;

/** A page shrunk to a grid of RGB cells, 0 to 255. */
export interface Grid {
  width: number;
  height: number;
  cells: Uint8Array;
}

/** A part of a page, in shares of its width and height. */
export interface Place {
  left: number;
  top: number;
  width: number;
  height: number;
}

export interface Distance {
  /** 0 for the same picture, 1 for black against white, at the worst place. */
  distance: number;
  place: Place;
}

/** The size of the grid for a page of so many pixels. */
export function gridFor({ width, height }: { width: number; height: number }): { width: number; height: number } {
  const columns = Math.min(GRID_WIDTH, Math.max(1, Math.round(width / MIN_PIXELS_A_CELL)));
  const rows = Math.round((columns * height) / width);
  return { width: columns, height: Math.min(MAX_GRID_HEIGHT, Math.max(1, rows)) };
}

/** Shrinks a picture, a file or its bytes, to a grid. Throws for data that is not a picture. */
export async function toGrid(picture: string | Buffer, size: { width: number; height: number }): Promise<Grid> {
  const { data, info } = await sharp(picture)
    .flatten({ background: 'white' })
    .toColourspace('srgb')
    .resize({ ...size, fit: 'fill', kernel: 'cubic' })
    .blur(BLUR_CELLS)
    .raw()
    .toBuffer({ resolveWithObject: true });
  return { width: info.width, height: info.height, cells: toRgb(data, info.channels) };
}

/** The distance between two pictures. */
export function distanceOf(one: Grid, other: Grid): Distance {
  return worstPlace(one, [differences(one, other)], ([difference = 0]) => difference);
}

/**
 * The distance between a page and two others at places where the two others agree. Other places do not count, because
 * it is unknown which picture is right there.
 */
export function oddity(page: Grid, one: Grid, other: Grid): Distance {
  const maps = [differences(page, one), differences(page, other), differences(one, other)];
  return worstPlace(page, maps, ([toOne = 0, toOther = 0, between = 0]) => {
    const nearest = toOne < toOther ? toOne : toOther;
    return between * AGREEMENT_FACTOR <= nearest ? nearest : 0;
  });
}

function toRgb(data: Buffer, channels: number): Uint8Array {
  if (channels === 3) return data;
  const cells = new Uint8Array((data.length / channels) * 3);
  for (let at = 0; at < cells.length; at++) {
    cells[at] = data[Math.floor(at / 3) * channels + (channels > 3 ? at % 3 : 0)] ?? 0;
  }
  return cells;
}

/**
 * The difference of each cell, 0 to 1, as a mean of the three colours: grey alone would take red for green. A cell that
 * lies between the lightest and darkest of its neighbours in the other picture does not differ, so that a shift by less
 * than a cell is none.
 */
function differences(one: Grid, other: Grid): Float32Array {
  const forth = outside(one, rangesOf(other));
  const back = outside(other, rangesOf(one));
  return forth.map((value, at) => larger(value, back[at] ?? 0));
}

function larger(a: number, b: number): number {
  return a > b ? a : b;
}

interface Ranges {
  least: Uint8Array;
  most: Uint8Array;
}

/** The range of each cell with its eight neighbours, colour by colour: first along rows, then along columns. */
function rangesOf({ width, cells }: Grid): Ranges {
  const stride = width * 3;
  // Neighbours are `step` apart, within runs of `run`.
  const pick = (of: Uint8Array, step: number, run: number, isBetter: (a: number, b: number) => boolean) =>
    of.map((value, at) => {
      const before = at % run < step ? value : (of[at - step] ?? value);
      const after = at % run >= run - step ? value : (of[at + step] ?? value);
      const best = isBetter(before, value) ? before : value;
      return isBetter(after, best) ? after : best;
    });
  const pickAround = (isBetter: (a: number, b: number) => boolean) =>
    pick(pick(cells, 3, stride, isBetter), stride, cells.length, isBetter);
  return { least: pickAround((a, b) => a < b), most: pickAround((a, b) => a > b) };
}

function outside({ width, height, cells }: Grid, { least, most }: Ranges): Float32Array {
  const map = new Float32Array(width * height);
  for (let cell = 0; cell < map.length; cell++) {
    let sum = 0;
    for (let at = cell * 3; at < cell * 3 + 3; at++) {
      const value = cells[at] ?? 0;
      const [low = 0, high = 0] = [least[at], most[at]];
      if (value < low) sum += low - value;
      else if (value > high) sum += value - high;
    }
    map[cell] = sum / 255 / 3;
  }
  return map;
}

/** The place at which `score`, given the mean of each map there, is highest. */
function worstPlace(
  { width, height }: Grid,
  maps: Float32Array[],
  score: (means: readonly number[]) => number,
): Distance {
  const sums = maps.map((map) => summedArea(map, width, height));
  let worst: Distance = { distance: 0, place: { left: 0, top: 0, width: 1, height: 1 } };
  for (const place of PLACES) {
    const [columns, rows] = [Math.min(place.width, width), Math.min(place.height, height)];
    for (let y = 0; y + rows <= height; y++) {
      for (let x = 0; x + columns <= width; x++) {
        const means = sums.map((sum) => sumOf(sum, width + 1, x, y, columns, rows) / (columns * rows));
        const distance = score(means);
        if (distance <= worst.distance) continue;
        const shares = { left: x / width, top: y / height, width: columns / width, height: rows / height };
        worst = { distance, place: shares };
      }
    }
  }
  return worst;
}

/** Sums of all cells above and to the left, so that any rectangle takes four look-ups. */
function summedArea(map: Float32Array, width: number, height: number): Float64Array {
  const sums = new Float64Array((width + 1) * (height + 1));
  for (let y = 1; y <= height; y++) {
    let row = 0;
    for (let x = 1; x <= width; x++) {
      row += map[(y - 1) * width + x - 1] ?? 0;
      sums[y * (width + 1) + x] = (sums[(y - 1) * (width + 1) + x] ?? 0) + row;
    }
  }
  return sums;
}

function sumOf(sums: Float64Array, stride: number, x: number, y: number, columns: number, rows: number): number {
  const at = (column: number, row: number) => sums[row * stride + column] ?? 0;
  return at(x + columns, y + rows) - at(x, y + rows) - at(x + columns, y) + at(x, y);
}
