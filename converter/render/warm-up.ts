import { fileURLToPath } from 'node:url';
import { encodePng } from './encode-png.ts';
import { openWithPdfium } from './engines/pdfium/document.ts';
import { startPdfium } from './engines/pdfium/instance.ts';

/** How often the sample is drawn: V8 then has compiled most of what an ordinary page runs. */
const ROUNDS = 4;
const SCALE = 200 / 72;
/** A page of text in several fonts, lines, curves and a small image; a reader has to find the objects itself. */
const SAMPLE = fileURLToPath(new URL('sample.pdf', import.meta.url));

/** Loads what is slow to load and starts all threads: what they map is then no growth, and no task pays for it. */
export async function warmUp(): Promise<void> {
  await startPdfium();
  await encodePng({ data: new Uint8Array(4 * 8 * 8), width: 8, height: 8, channels: 4 });
}

/** Draws a sample page some times, so that the first upload meets compiled code. Ends after a round once aborted. */
export async function drawSamples(signal: AbortSignal): Promise<void> {
  const document = await openWithPdfium(SAMPLE, null);
  for (let round = 0; round < ROUNDS && !signal.aborted; round++) {
    await encodePng(await document.render(1, SCALE));
    await new Promise(setImmediate);
  }
  await document.close();
}
