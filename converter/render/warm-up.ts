import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { encodePng } from './encode-png.ts';
import { openWithPdfium } from './engines/pdfium/document.ts';
import { startPdfium } from './engines/pdfium/instance.ts';

/** How often the sample is drawn: V8 then has compiled most of what an ordinary page runs. */
const ROUNDS = 4;
const SCALE = 200 / 72;
const LINES = 40;

/** Loads what is slow to load and starts all threads: what they map is then no growth, and no task pays for it. */
export async function warmUp(): Promise<void> {
  await startPdfium();
  await encodePng({ data: new Uint8Array(4 * 8 * 8), width: 8, height: 8, channels: 4 });
}

/** Draws a sample page some times, so that the first upload meets compiled code. Ends after a round once aborted. */
export async function drawSamples(signal: AbortSignal): Promise<void> {
  const folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-sample-'));
  try {
    const file = path.join(folder, 'sample.pdf');
    await writeFile(file, samplePdf());
    const document = await openWithPdfium(file, null);
    for (let round = 0; round < ROUNDS && !signal.aborted; round++) {
      await encodePng(await document.render(1, SCALE));
      await new Promise(setImmediate);
    }
    await document.close();
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** A page of text in several fonts, lines, curves and a small image; a reader has to find the objects itself. */
function samplePdf(): string {
  const fonts = ['Helvetica', 'Times-Italic', 'Courier', 'Symbol'];
  const text = Array.from({ length: LINES }, (_, line) => {
    const at = `BT /F${line % fonts.length} ${8 + (line % 5)} Tf 40 ${780 - 18 * line} Td`;
    return `${at} (The quick brown fox jumps over the lazy dog 0123456789, ${line} times) Tj ET`;
  });
  const shapes = '0.2 0.4 0.8 rg 100 100 m 150 250 300 50 400 200 c 420 80 l f 2 w 50 50 m 500 90 l S';
  const image = 'q 80 0 0 80 450 300 cm BI /W 2 /H 2 /CS /RGB /BPC 8 ID abcdefghijkl EI Q';
  const content = [...text, shapes, image].join('\n');
  const fontObjects = fonts.map((name, index) => `/F${index} << /Type /Font /Subtype /Type1 /BaseFont /${name} >>`);
  const resources = `<< /Font << ${fontObjects.join(' ')} >> >>`;
  return [
    '%PDF-1.4',
    '1 0 obj << /Type /Catalog /Pages 2 0 R >> endobj',
    '2 0 obj << /Type /Pages /Kids [3 0 R] /Count 1 >> endobj',
    `3 0 obj << /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R /Resources ${resources} >> endobj`,
    `4 0 obj << /Length ${content.length} >> stream\n${content}\nendstream endobj`,
    'trailer << /Root 1 0 R >>',
  ].join('\n');
}
