import { writePdf } from '../support/files.ts';

/** Red pages, one of which (from 1) is painted over so often that it takes some ten seconds, in little memory. */
export function pdfWithSlowPage(pageCount: number, slow: number): Buffer {
  const numbers = Array.from({ length: pageCount }, (_, index) => index + 1);
  const stream = (content: string) => `<< /Length ${content.length} >>\nstream\n${content}\nendstream`;
  return writePdf(
    [
      '<< /Type /Catalog /Pages 2 0 R >>',
      `<< /Type /Pages /Kids [${numbers.map((page) => `${page + 4} 0 R`).join(' ')}] /Count ${pageCount} >>`,
      stream('1 0 0 rg 0 0 200 300 re f'),
      stream('0 0 m 200 300 150 10 10 150 c S 1 0 0 rg 10 10 180 280 re f '.repeat(40_000)),
      ...numbers.map(
        (page) => `<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 300] /Contents ${page === slow ? 4 : 3} 0 R >>`,
      ),
    ],
    '',
  );
}
