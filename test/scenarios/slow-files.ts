import { deflateSync } from 'node:zlib';
import { writePdf } from '../support/files.ts';

/**
 * Pages that cost time, and little memory: a mesh of triangles is painted over and over. The files are small.
 */

const ITS_PAGE = [0, 200, 0, 300];

interface Painting {
  /** How often the mesh covers its box. */
  layers: number;
  /** How often the page is painted with the mesh. */
  times: number;
  /** Left, right, bottom and top of the mesh; the page is `ITS_PAGE`. */
  box: number[];
}

/** Red pages, one of which (from 1) takes some ten seconds at 200 dpi. */
export function pdfWithSlowPage(pageCount: number, slow: number): Buffer {
  return pdfWithPaintedPage(pageCount, slow, { layers: 5_000, times: 1, box: ITS_PAGE });
}

/** Red pages, one of which (from 1) neither engine ends within half an hour at 200 dpi. */
export function pdfThatNeverEnds(pageCount = 1, endless = 1): Buffer {
  return pdfWithPaintedPage(pageCount, endless, { layers: 2_000, times: 1_000, box: ITS_PAGE });
}

/**
 * Red pages, one of which (from 1) pdf.js does not end within a minute and PDFium does in a second: pdf.js paints all of
 * a mesh that reaches far beyond the page, as far as 3000 x 3000 pixels.
 */
export function pdfWithPageForPdfium(pageCount: number, slow: number): Buffer {
  return pdfWithPaintedPage(pageCount, slow, { layers: 500, times: 1, box: [-5_000, 5_000, -5_000, 5_000] });
}

function pdfWithPaintedPage(pageCount: number, painted: number, { layers, times, box }: Painting): Buffer {
  const numbers = Array.from({ length: pageCount }, (_, index) => index + 1);
  const mesh = deflateSync(Buffer.concat(Array(layers).fill(TWO_TRIANGLES))).toString('latin1');
  const stream = (content: string, entries = '') =>
    `<< ${entries} /Length ${content.length} >>\nstream\n${content}\nendstream`;
  return writePdf(
    [
      '<< /Type /Catalog /Pages 2 0 R >>',
      `<< /Type /Pages /Kids [${numbers.map((page) => `${page + 5} 0 R`).join(' ')}] /Count ${pageCount} >>`,
      stream('1 0 0 rg 0 0 200 300 re f'),
      // A pattern is parsed once, and painted many times.
      stream(`/Pattern cs /Mesh scn ${'0 0 200 300 re f '.repeat(times)}`),
      stream(
        mesh,
        `/ShadingType 4 /ColorSpace /DeviceRGB /BitsPerCoordinate 16 /BitsPerComponent 8 /BitsPerFlag 8
         /Decode [${box.join(' ')} 0 1 0 1 0 1] /Filter /FlateDecode`,
      ),
      ...numbers.map(
        (page) => `<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 300] /Resources
          << /Pattern << /Mesh << /PatternType 2 /Shading 5 0 R >> >> >>
          /Contents ${page === painted ? 4 : 3} 0 R >>`,
      ),
    ],
    '',
  );
}

/** The corners of two triangles that cover the box, each with a flag, two coordinates of 16 bits, and a colour: red. */
const TWO_TRIANGLES = Buffer.from(
  [
    [0x00, 0x00],
    [0xff, 0x00],
    [0x00, 0xff],
    [0xff, 0x00],
    [0x00, 0xff],
    [0xff, 0xff],
  ].flatMap(([x = 0, y = 0]) => [0, x, x, y, y, 255, 0, 0]),
);
