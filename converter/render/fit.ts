/** The longest side that an output page may have, in pixels: pages stay below 3500. */
export const MAX_SIDE = 3499;

const POINTS_PER_INCH = 72;

/** Pixels for a side that came out as a fraction: rounded up, except that a sliver of rounding error starts no new row. */
export function sidePixels(length: number): number {
  return Math.max(1, Math.ceil(length - 0.01));
}

/**
 * How large to draw a PDF page: at `dpi`, or at what is left of it when a side would pass MAX_SIDE.
 * Takes the page's size in points and gives pixels per point (`scale`), the dpi actually used (two decimals) and the size in pixels.
 */
export function fitScale(widthPt: number, heightPt: number, dpi: number) {
  const asked = dpi / POINTS_PER_INCH;
  const reduced = sidePixels(Math.max(widthPt, heightPt) * asked) > MAX_SIDE;
  const scale = reduced ? MAX_SIDE / Math.max(widthPt, heightPt) : asked;
  return {
    scale,
    dpi: Math.round(scale * POINTS_PER_INCH * 100) / 100,
    width: sidePixels(widthPt * scale),
    height: sidePixels(heightPt * scale),
    reduced: reduced ? ('fits below 3500' as const) : null,
  };
}

/** The size in pixels of an image after it was shrunk, never enlarged, until both sides are MAX_SIDE at most. */
export function fitImage(width: number, height: number) {
  const scale = Math.min(1, MAX_SIDE / Math.max(width, height));
  return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
}
