import { readFloats, readIntegers } from './memory.ts';
import type { OpenFile } from './open-file.ts';
import type { Pdfium } from './pdfium.ts';

/** The size in pixels of an image in a PDF, as its dictionary gives it. */
export interface ImageSize {
  width: number;
  height: number;
}

const IMAGE = 3;
const FORM = 5;

/** The image objects of a loaded page, those in its form XObjects included. */
export function imageObjects({ pdfium: { call } }: OpenFile, loaded: number): number[] {
  const imagesAmong = (count: number, objectAt: (index: number) => number): number[] => {
    const images: number[] = [];
    for (let index = 0; index < count; index++) {
      const object = objectAt(index);
      const type = call.FPDFPageObj_GetType(object);
      if (type === IMAGE) images.push(object);
      if (type !== FORM) continue;
      const inner = (at: number) => call.FPDFFormObj_GetObject(object, at);
      images.push(...imagesAmong(call.FPDFFormObj_CountObjects(object), inner));
    }
    return images;
  };
  return imagesAmong(call.FPDFPage_CountObjects(loaded), (index) => call.FPDFPage_GetObject(loaded, index));
}

export function pixelSize({ pdfium }: OpenFile, image: number): ImageSize {
  const { call } = pdfium;
  const size = readIntegers(pdfium, 2, (at) => call.FPDFImageObj_GetImagePixelSize(image, at, at + 4));
  const [width = 0, height = 0] = size ?? [];
  return { width: Math.max(0, width), height: Math.max(0, height) };
}

/** Left, bottom, right and top of an object in points; undefined for one without bounds. */
export function boundsOf(pdfium: Pdfium, object: number): number[] | undefined {
  return readFloats(pdfium, 4, (at) => pdfium.call.FPDFPageObj_GetBounds(object, at, at + 4, at + 8, at + 12));
}
