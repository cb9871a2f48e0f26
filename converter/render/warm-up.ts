import { fileURLToPath } from 'node:url';
import { encodePng } from './encode-png.ts';
import { openWithPdfium } from './engines/pdfium/document.ts';
import { startPdfium } from './engines/pdfium/instance.ts';

/** After this many rounds V8 has compiled most of the code that an ordinary page runs. */
const ROUNDS = 4;
const SCALE = 200 / 72;
/** A page of text in several fonts, lines, curves and a small image, in a file without a cross-reference table. */
const SAMPLE = fileURLToPath(new URL('sample.pdf', import.meta.url));

/** Loads slow libraries and starts all threads, so that no task waits for them and their memory is part of the baseline. */
export async function warmUp(): Promise<void> {
  await startPdfium();
  await encodePng({ data: new Uint8Array(4 * 8 * 8), width: 8, height: 8, channels: 4 });
}

/** Draws a sample page several times, so that the first upload runs compiled code. Stops after a round when aborted. */
export async function drawSamples(signal: AbortSignal): Promise<void> {
  const document = await openWithPdfium(SAMPLE, null);
  for (let round = 0; round < ROUNDS && !signal.aborted; round++) {
    await encodePng(await document.render(1, SCALE));
    await new Promise(setImmediate);
  }
  await document.close();
}
