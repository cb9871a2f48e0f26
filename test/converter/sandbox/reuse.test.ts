import type { TaskRequest } from '../../../converter/run-task.ts';
import { isNativeStep, runsNativeCode } from '../../../converter/sandbox/reuse.ts';
import type { PdfEngine } from '../../../jobs/task.ts';

const requestOf = (type: string, payload: Record<string, unknown>, firstEngine: PdfEngine = 'pdfium') =>
  ({ type, payload, limits: { maxPages: 1, maxPixels: 1, stepSeconds: 1, firstEngine } }) as unknown as TaskRequest;

test.each([
  ['an image', requestOf('convert', { media_type: 'image/jpeg' })],
  ['an image of a range', requestOf('convert_range', { media_type: 'image/png' })],
  ['a PDF that pdf-to-img draws first', requestOf('convert', { media_type: 'application/pdf' }, 'pdf-to-img')],
  [
    'a PDF whose client chose pdf-to-img',
    requestOf('convert_range', { media_type: 'application/pdf', engine: 'pdf-to-img' }),
  ],
  ['a task of an operator', requestOf('thumbnail', {})],
])('native code reads %s', (_name, request) => {
  expect(runsNativeCode(request)).toBe(true);
});

test.each([
  ['a PDF', requestOf('convert', { media_type: 'application/pdf', engine: null })],
  [
    'a PDF whose client chose PDFium',
    requestOf('convert', { media_type: 'application/pdf', engine: 'pdfium' }, 'pdf-to-img'),
  ],
  ['a checksum', requestOf('checksum', {})],
  ['an archive', requestOf('archive', {})],
])('native code does not read %s', (_name, request) => {
  expect(runsNativeCode(request)).toBe(false);
});

test('a PDF is read by native code after a step of another engine than PDFium', () => {
  const engines = ['pdfium', 'pdf-to-img', 'sharp'] as const;
  expect(engines.map((engine) => isNativeStep({ page: 1, engine, last: true }))).toEqual([false, true, true]);
});
