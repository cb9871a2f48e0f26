import { rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { DrawnPage, PdfDocument } from '../../converter/render/engines/engine.ts';
import { openWithPdfium } from '../../converter/render/engines/pdfium/document.ts';
import { writePdf } from './files.ts';

/** PDFs written object by object, drawn pages of them, and what to ask of the pixels. */

type Open = (file: string, password: string | null) => Promise<PdfDocument>;

export interface OnePage {
  content?: string;
  /** Entries of the resources, of the page and of the catalog. */
  resources?: string;
  page?: string;
  catalog?: string;
  trailer?: string;
  /** Numbered from 5. */
  objects?: string[];
  width?: number;
  height?: number;
}

/** A PDF with one page, of 200x300 points by default. */
export function onePagePdf(spec: OnePage): Buffer {
  const { content = '', resources = '', page = '', catalog = '', trailer = '', objects = [] } = spec;
  const box = `/MediaBox [0 0 ${spec.width ?? 200} ${spec.height ?? 300}]`;
  return writePdf(
    [
      `<< /Type /Catalog /Pages 2 0 R ${catalog} >>`,
      '<< /Type /Pages /Kids [3 0 R] /Count 1 >>',
      `<< /Type /Page /Parent 2 0 R ${box} /Contents 4 0 R /Resources << ${resources} >> ${page} >>`,
      streamObject('', content),
      ...objects,
    ],
    trailer,
  );
}

export function streamObject(dictionary: string, data: string | Buffer): string {
  const text = typeof data === 'string' ? data : data.toString('latin1');
  return `<< ${dictionary} /Length ${text.length} >>\nstream\n${text}\nendstream`;
}

/** Gives a file with these bytes to `use` and removes it afterwards. */
export async function withFile<T>(data: Buffer | Uint8Array, use: (file: string) => Promise<T>): Promise<T> {
  const file = path.join(tmpdir(), `sheetmill-${process.pid}-${files++}.pdf`);
  await writeFile(file, data);
  try {
    return await use(file);
  } finally {
    await rm(file);
  }
}
let files = 0;

/** A page as an engine draws it, by default with PDFium. */
export function drawPdf(
  data: Buffer | Uint8Array,
  options: { page?: number; scale?: number; open?: Open } = {},
): Promise<DrawnPage> {
  const { page = 1, scale = 1, open = openWithPdfium } = options;
  return withFile(data, async (file) => {
    const document = await open(file, null);
    try {
      const drawn = await document.render(page, scale);
      return { ...drawn, data: drawn.data.slice() };
    } finally {
      await document.close();
    }
  });
}

export interface Area {
  left: number;
  top: number;
  right: number;
  bottom: number;
}

/** The pixels of an area, whose sides are in pixels from the top left; without one, of the whole page. */
export function pixelsOf({ data, width, height }: DrawnPage, area?: Area): Uint32Array {
  const { left, top, right, bottom } = area ?? { left: 0, top: 0, right: width, bottom: height };
  const all = new Uint32Array(data.buffer, data.byteOffset, width * height);
  const pixels = new Uint32Array((bottom - top) * (right - left));
  for (let row = top; row < bottom; row++) {
    pixels.set(all.subarray(row * width + left, row * width + right), (row - top) * (right - left));
  }
  return pixels;
}

/** True if two areas look the same. Jest's `toEqual` takes a thousand times as long: it compares properties. */
export function isSame(one: Uint32Array, other: Uint32Array): boolean {
  return Buffer.from(one.buffer).equals(Buffer.from(other.buffer));
}

/** How many pixels of an area are not white. */
export function inkOf(page: DrawnPage, area?: Area): number {
  return pixelsOf(page, area).reduce((ink, pixel) => (pixel === 0xffffffff ? ink : ink + 1), 0);
}

/** Red, green and blue of the pixel at `x` and `y`. */
export function colorAt({ data, width }: DrawnPage, x: number, y: number): number[] {
  return [...data.subarray((y * width + x) * 4, (y * width + x) * 4 + 3)];
}
