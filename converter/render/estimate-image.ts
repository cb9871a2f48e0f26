import { BASELINE_MB, MAX_CLASS_MB } from '../../jobs/shape.ts';
import { fitImage, MAX_SIDE } from './fit.ts';
import type { ImageHeader } from './inspect-image.ts';

/**
 * How much memory converting an image takes in all, in MB, by its header alone. The terms are what libvips, libjpeg and
 * libpng hold; their sizes were measured over 650 kinds of images, none of which took more. `npm run bench:memory` says
 * how good they are.
 */

const MB = 2 ** 20;

/** Threads, zlib, the codecs' tables, and what a sandbox that has worked before keeps. */
const FIXED_MB = 28;
/** Little CMS and its profile. */
const CMYK_MB = 20;
/** Decoded lines held at once: the loader's cache, and when the image shrinks, that of the shrinking as well. */
const LINES = 500;
const LINES_RESIZED = 2600;
/** An image lower than that is held at most so many times. */
const COPIES = 3;
/** What libvips encodes goes through two buffers of 128 lines. */
const SINK_LINES = 256;
/** The PNG of noise is as large as its pixels: in a buffer that doubles as it grows, or, for a photograph, beside them. */
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
  // Turning needs the whole picture, already shrunk.
  if (orientation > 2) total += outputPixels * pixel;
  // An interlaced PNG comes whole; a progressive JPEG as the coefficients of all of it, two bytes each.
  if (progressive) total += width * height * (format === 'png' ? pixel : 2 * coefficients(image));
  // libvips maps the file.
  if (format === 'jpeg') total += bytes;
  return Math.min(BASELINE_MB + FIXED_MB + (cmyk ? CMYK_MB : 0) + total / MB, MAX_CLASS_MB);
}

/** For each pixel: 4:2:2 has two and 4:2:0 one and a half, and libvips tells no more than that the chroma is subsampled. */
function coefficients({ channels, subsampled }: ImageHeader): number {
  return channels === 3 && subsampled ? 2 : channels;
}

/** By how much a JPEG is shrunk while it is decoded: sharp leaves at least a half to shrink afterwards. */
function shrinkOnLoad(factor: number): number {
  return factor >= 9 ? 8 : factor >= 5 ? 4 : factor >= 3 ? 2 : 1;
}
