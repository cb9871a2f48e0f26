/** The markers of JPEG files (ITU-T T.81, annex B). */
export const RESTART = 0xd0;
export const END_OF_IMAGE = 0xd9;
export const START_OF_SCAN = 0xda;

/** The markers that have a length, each with the position of its length. */
export function* segmentsOf(jpeg: Buffer): Generator<{ marker: number; at: number }> {
  for (let at = jpeg.indexOf(0xff, 2); at !== -1 && at + 4 <= jpeg.length; at = jpeg.indexOf(0xff, at)) {
    const marker = jpeg[at + 1] ?? 0;
    const isBare = marker === 0 || (marker >= RESTART && marker <= END_OF_IMAGE) || marker === 0x01;
    if (marker === 0xff) at += 1;
    else if (isBare) at += 2;
    else {
      yield { marker, at: at + 2 };
      at += 2 + jpeg.readUInt16BE(at + 2);
    }
  }
}

/** True for SOF0 to SOF15. Three markers in that range have another meaning. */
export function isFrame(marker: number): boolean {
  return marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc;
}
