import { withMemory } from './instance.ts';
import type { OpenFile } from './open-file.ts';

/** The size in pixels of an image in a PDF, as its dictionary gives it. */
export interface ImageSize {
  width: number;
  height: number;
}

const IMAGE = 3;
const FORM = 5;

/** The image objects of a loaded page, those in its form XObjects too. */
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
  return withMemory(pdfium, 8, (at) => {
    pdfium.call.FPDFImageObj_GetImagePixelSize(image, at, at + 4);
    const [width = 0, height = 0] = new Int32Array(pdfium.memory().buffer, at, 2);
    return { width: Math.max(0, width), height: Math.max(0, height) };
  });
}
