import { BASELINE_MB, MAX_CLASS_MB } from '../../jobs/shape.ts';
import { fitImage, MAX_SIDE } from './fit.ts';
import type { ImageHeader } from './inspect-image.ts';

/**
 * Estimates the memory that converting an image needs, from its header alone. The terms are the buffers of libvips,
 * libjpeg and libpng; their sizes were measured with 650 kinds of images, and none needed more. `npm run bench:memory`
 * compares them with the memory that images use.
 */

const MB = 2 ** 20;

/** Threads, zlib, the tables of codecs, and memory that a used sandbox keeps. */
const FIXED_MB = 28;
/** Little CMS and its colour profile. */
const CMYK_MB = 20;
/** Decoded lines in memory at one time: the cache of the loader and, for an image that shrinks, of the resizer. */
const LINES = 500;
const LINES_RESIZED = 2600;
/** An image with fewer lines is in memory at most this many times. */
const COPIES = 3;
/** libvips encodes through two buffers of 128 lines. */
const SINK_LINES = 256;
/** The PNG of noise is as large as its pixels. It is in a buffer that doubles or, for a photograph, next to the pixels. */
const PNG_COPIES = { png: 1.75, jpeg: 2 };

export function estimateImage(image: ImageHeader): number {
  const { format, width, height, channels, deep, progressive, orientation, hasAlpha, cmyk, isGrey, bytes } = image;
  const pixel = channels * (deep ? 2 : 1);
  const factor = Math.max(1, Math.max(width, height) / MAX_SIDE);
  const onLoad = format === 'jpeg' ? shrinkOnLoad(factor) : 1;
  const lines = Math.min(factor > 1 ? LINES_RESIZED : LINES, COPIES * Math.ceil(height / onLoad));
  const output = fitImage(width, height);
  const outputPixels = output.width * output.height;
  const outputPixel = isGrey ? 1 : hasAlpha ? 4 : 3;

  let total = Math.ceil(width / onLoad) * pixel * lines;
  if (format === 'png') total += output.width * Math.min(output.height, SINK_LINES) * Math.max(pixel, outputPixel);
  total += outputPixels * outputPixel * PNG_COPIES[format];
  // Turning needs the whole picture after it was shrunk.
  if (orientation > 2) total += outputPixels * pixel;
  // An interlaced PNG is decoded as a whole, a progressive JPEG to coefficients of two bytes.
  if (progressive) total += width * height * (format === 'png' ? pixel : 2 * coefficients(image));
  // libvips maps the file into memory.
  if (format === 'jpeg') total += bytes;
  return Math.min(BASELINE_MB + FIXED_MB + (cmyk ? CMYK_MB : 0) + total / MB, MAX_CLASS_MB);
}

/** Coefficients for each pixel: two for 4:2:2 and 1.5 for 4:2:0, which libvips does not distinguish. */
function coefficients({ channels, subsampled }: ImageHeader): number {
  return channels === 3 && subsampled ? 2 : channels;
}

/** The factor by which a JPEG is shrunk while it is decoded: sharp leaves a factor of at least 1.5 for later. */
function shrinkOnLoad(factor: number): number {
  return factor >= 9 ? 8 : factor >= 5 ? 4 : factor >= 3 ? 2 : 1;
}
