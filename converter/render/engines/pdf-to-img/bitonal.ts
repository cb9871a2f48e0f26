/**
 * A picture of black and one other colour, as scans and fax pages are: `other` is white or transparent. Each pixel is its
 * share of `other`, at first one bit, after halving one byte; as RGBA it would take 32 times the memory.
 */
export interface Bitonal {
  width: number;
  height: number;
  other: number;
  depth: 1 | 8;
  data: Uint8Array;
}

const BLACK = 0xff000000;
const WHITE = 0xffffffff;
const TRANSPARENT = 0;

/** An all black picture to be filled by `packBand`; what `other` is shows with the first pixel that is not black. */
export function emptyBitonal(width: number, height: number): Bitonal {
  return { width, height, other: BLACK, depth: 1, data: new Uint8Array(Math.ceil(width / 8) * height) };
}

/** Packs `rows` rows of RGBA pixels in at row `top`; gives false, and stops, at a pixel that is neither black nor `other`. */
export function packBand(picture: Bitonal, rgba: Uint8ClampedArray, top: number, rows: number): boolean {
  const { width, data } = picture;
  const pixels = new Uint32Array(rgba.buffer, rgba.byteOffset, width * rows);
  const stride = Math.ceil(width / 8);
  for (let row = 0, at = 0; row < rows; row++) {
    for (let x = 0; x < width; x += 8) {
      let byte = 0;
      for (let bit = 0, end = Math.min(8, width - x); bit < end; bit++) {
        const pixel = pixels[at++] as number;
        if (pixel === BLACK) continue;
        if (pixel !== picture.other) {
          if (picture.other !== BLACK || (pixel !== WHITE && pixel !== TRANSPARENT)) return false;
          picture.other = pixel;
        }
        byte |= 0x80 >> bit;
      }
      data[(top + row) * stride + (x >> 3)] = byte;
    }
  }
  return true;
}

/** The picture at half its width, half its height or both, rounded up: each pixel is the mean of those that it replaces. */
export function halve(picture: Bitonal, width: number, height: number): Bitonal {
  const data = new Uint8Array(width * height);
  const across = width < picture.width ? 2 : 1;
  const down = height < picture.height ? 2 : 1;
  const upper = new Uint8Array(picture.width + 1);
  const lower = new Uint8Array(picture.width + 1);
  for (let y = 0, at = 0; y < height; y++) {
    readRow(picture, y * down, upper);
    readRow(picture, Math.min(y * down + down - 1, picture.height - 1), lower);
    for (let x = 0; x < picture.width; x += across) {
      const next = x + across - 1;
      data[at++] =
        ((upper[x] as number) + (upper[next] as number) + (lower[x] as number) + (lower[next] as number)) >> 2;
    }
  }
  return { ...picture, width, height, depth: 8, data };
}

/** Writes `rows` rows from row `top` on as RGBA pixels. */
export function unpackBand(picture: Bitonal, top: number, rows: number, rgba: Uint8ClampedArray): void {
  const { width, other } = picture;
  const pixels = new Uint32Array(rgba.buffer, rgba.byteOffset, width * rows);
  const row = new Uint8Array(width + 1);
  for (let y = 0, at = 0; y < rows; y++) {
    readRow(picture, top + y, row);
    for (let x = 0; x < width; x++) {
      const share = row[x] as number;
      pixels[at++] = other === TRANSPARENT ? (255 - share) << 24 : BLACK | (share * 0x010101);
    }
  }
}

/** One row as bytes of 0 to 255; the last pixel once more behind it, for a neighbour to the right. */
function readRow({ width, depth, data }: Bitonal, y: number, row: Uint8Array): void {
  if (depth === 8) row.set(data.subarray(y * width, (y + 1) * width));
  else {
    const start = y * Math.ceil(width / 8);
    for (let x = 0; x < width; x++) row[x] = (data[start + (x >> 3)] as number) & (0x80 >> (x & 7)) ? 255 : 0;
  }
  row[width] = row[width - 1] as number;
}
