/** Packs the pixels of a drawn page into the smallest form that a PNG file has for them. No colour changes. */

export interface PackedPixels {
  /** The PNG colour type: grey, RGB or palette. */
  colorType: 0 | 2 | 3;
  bitDepth: 1 | 8;
  /** The RGB entries of the palette; null without one. */
  palette: Uint8Array | null;
  /** The rows, `rowBytes` each. */
  data: Uint8Array;
  rowBytes: number;
}

const GREY = 0;
const RGB = 2;
const PALETTE = 3;
const MAX_COLORS = 256;
/** An A4 page of 200 dpi in RGB. */
const MAX_SPARE_BYTES = 12e6;
/** Every 32nd row is sampled first, so that a page with many colours is not packed as one with few. */
const SAMPLE_ROWS = 32;
/** The hash table of colours has 2 ** SLOT_BITS slots, so that collisions are rare. */
const SLOT_BITS = 12;
const EMPTY_SLOT = -1;
const WHITE = 0xffffff;
const FOUR_OPAQUE_WHITE = -1;

/** The buffer of the last page. Allocating a new one takes as long as packing. */
let spare: ArrayBuffer | null = null;

function takeBytes(length: number): ArrayBuffer {
  const taken = spare;
  spare = null;
  return taken !== null && taken.byteLength >= length ? taken : new ArrayBuffer(length);
}

/** Lets the next page use the buffer of a packed page that is encoded. */
export function recycle({ data: { buffer } }: PackedPixels): void {
  if (buffer instanceof ArrayBuffer && buffer.byteLength <= MAX_SPARE_BYTES) spare = buffer;
}

/** Packs RGBX pixels, whose fourth byte is ignored: bilevel, else grey, else a palette of at most 256 colours, else RGB. */
export function packPage(page: Uint8Array, width: number, height: number): PackedPixels {
  const pixels = int32Of(page);
  const seen = sampleColors(pixels, width);
  const grey = seen.isGrey ? greyOf(pixels) : null;
  if (grey?.isBilevel) return packBilevel(grey.values, width, height);
  if (grey) return { colorType: GREY, bitDepth: 8, palette: null, data: grey.values, rowBytes: width };
  const indexed = seen.colors <= MAX_COLORS ? indexColors(pixels) : null;
  if (indexed) return { colorType: PALETTE, bitDepth: 8, ...indexed, rowBytes: width };
  return { colorType: RGB, bitDepth: 8, palette: null, data: rgbOf(pixels), rowBytes: width * 3 };
}

/** The colours of the sampled rows. The count stops when they are too many for a palette. */
function sampleColors(pixels: Int32Array, width: number): { isGrey: boolean; colors: number } {
  const colors = new Set<number>();
  let isGrey = true;
  let last = EMPTY_SLOT;
  for (let row = 0; row < pixels.length && (isGrey || colors.size <= MAX_COLORS); row += width * SAMPLE_ROWS) {
    for (let at = row; at < row + width; at++) {
      const color = (pixels[at] ?? 0) & 0xffffff;
      if (color === last) continue;
      last = color;
      colors.add(color);
      if (((color ^ (color >>> 8)) & 0xffff) !== 0) isGrey = false;
    }
  }
  return { isGrey, colors: colors.size };
}

/** V8 computes with signed 32-bit numbers several times faster than with unsigned ones. */
function int32Of({ buffer, byteOffset, length }: Uint8Array): Int32Array {
  if (byteOffset % 4 === 0) return new Int32Array(buffer, byteOffset, length / 4);
  return new Int32Array(buffer.slice(byteOffset, byteOffset + length));
}

/** One byte per pixel; null when a pixel has a colour. Reading four pixels at a time is 25% faster. */
function greyOf(pixels: Int32Array): { values: Uint8Array; isBilevel: boolean } | null {
  const values = new Uint8Array(takeBytes(pixels.length), 0, pixels.length).fill(0xff);
  let middle = 0;
  for (let at = 0; at < pixels.length; at += 4) {
    const a = pixels[at] ?? WHITE;
    const b = pixels[at + 1] ?? WHITE;
    const c = pixels[at + 2] ?? WHITE;
    const d = pixels[at + 3] ?? WHITE;
    if ((a & b & c & d) === FOUR_OPAQUE_WHITE) continue;
    if ((((a ^ (a >>> 8)) | (b ^ (b >>> 8)) | (c ^ (c >>> 8)) | (d ^ (d >>> 8))) & 0xffff) !== 0) return null;
    values[at] = a;
    values[at + 1] = b;
    values[at + 2] = c;
    values[at + 3] = d;
    // Only 0 and 255 set no bit here.
    middle |= ((a + 1) | (b + 1) | (c + 1) | (d + 1)) & 0xfe;
  }
  return { values, isBilevel: middle === 0 };
}

function packBilevel(values: Uint8Array, width: number, height: number): PackedPixels {
  const rowBytes = Math.ceil(width / 8);
  const data = new Uint8Array(rowBytes * height);
  let to = 0;
  for (let row = 0; row < values.length; row += width) {
    const end = row + width;
    for (let at = row; at < end; at += 8) {
      let bits = 0;
      for (let bit = 0; bit < 8 && at + bit < end; bit++) bits |= (values[at + bit] ?? 0) & (0x80 >>> bit);
      data[to++] = bits;
    }
  }
  return { colorType: GREY, bitDepth: 1, palette: null, data, rowBytes };
}

/** The palette and the index of each pixel's colour; null when there are more than 256 colours. */
function indexColors(pixels: Int32Array): { data: Uint8Array; palette: Uint8Array } | null {
  const colors: number[] = [];
  const slots = new Int32Array(1 << SLOT_BITS).fill(EMPTY_SLOT);
  const indexOfSlot = new Uint8Array(1 << SLOT_BITS);
  const data = new Uint8Array(takeBytes(pixels.length), 0, pixels.length);
  let last = EMPTY_SLOT;
  let index = 0;
  for (let at = 0; at < pixels.length; at++) {
    const color = (pixels[at] ?? 0) & 0xffffff;
    if (color !== last) {
      let slot = Math.imul(color, 0x9e3779b1) >>> (32 - SLOT_BITS);
      while (slots[slot] !== color && slots[slot] !== EMPTY_SLOT) slot = (slot + 1) & (slots.length - 1);
      if (slots[slot] === EMPTY_SLOT) {
        if (colors.length === MAX_COLORS) return null;
        slots[slot] = color;
        indexOfSlot[slot] = colors.push(color) - 1;
      }
      last = color;
      index = indexOfSlot[slot] ?? 0;
    }
    data[at] = index;
  }
  return { data, palette: Uint8Array.from(colors.flatMap((color) => [color, color >>> 8, color >>> 16])) };
}

/** Packs four pixels into three words. */
function rgbOf(pixels: Int32Array): Uint8Array {
  const length = Math.ceil(pixels.length / 4) * 3;
  const words = new Int32Array(takeBytes(length * 4), 0, length);
  for (let at = 0, to = 0; at < pixels.length; at += 4, to += 3) {
    const b = pixels[at + 1] ?? 0;
    const c = pixels[at + 2] ?? 0;
    words[to] = ((pixels[at] ?? 0) & 0xffffff) | (b << 24);
    words[to + 1] = ((b >>> 8) & 0xffff) | (c << 16);
    words[to + 2] = ((c >>> 16) & 0xff) | ((pixels[at + 3] ?? 0) << 8);
  }
  return new Uint8Array(words.buffer, 0, pixels.length * 3);
}
