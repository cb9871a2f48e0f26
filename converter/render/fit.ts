/** The longest side that an output page may have, in pixels: pages stay below 3500. */
export const MAX_SIDE = 3499;

const POINTS_PER_INCH = 72;

/** How large to draw a PDF page. */
export interface PageFit {
  /** Pixels per point. */
  scale: number;
  /** The effective dpi, with two decimals. */
  dpi: number;
  /** Pixels. */
  width: number;
  height: number;
  /** Why `dpi` is less than requested; null when it is not. */
  reduced: 'fits below 3500' | null;
}

/** A side in whole pixels, rounded up. A rounding error below 0.01 pixels adds no row. */
export function sidePixels(length: number): number {
  return Math.max(1, Math.ceil(length - 0.01));
}

/** Fits a page of a size in points to `dpi`, or to the highest dpi at which no side is longer than MAX_SIDE. */
export function fitScale(widthPt: number, heightPt: number, dpi: number): PageFit {
  const requested = dpi / POINTS_PER_INCH;
  const isReduced = sidePixels(Math.max(widthPt, heightPt) * requested) > MAX_SIDE;
  const scale = isReduced ? MAX_SIDE / Math.max(widthPt, heightPt) : requested;
  return {
    scale,
    dpi: Math.round(scale * POINTS_PER_INCH * 100) / 100,
    width: sidePixels(widthPt * scale),
    height: sidePixels(heightPt * scale),
    reduced: isReduced ? 'fits below 3500' : null,
  };
}

/** The size in pixels of an image that is shrunk, never enlarged, until no side is longer than MAX_SIDE. */
export function fitImage(width: number, height: number): { width: number; height: number } {
  const scale = Math.min(1, MAX_SIDE / Math.max(width, height));
  return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
}
