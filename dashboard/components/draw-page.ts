import { askBlob } from '../api/http.ts';
import { createSemaphore } from '../api/semaphore.ts';

/** A decoded page may take 49 MB until it is shrunk. */
const AT_ONCE = 2;
const inTurn = createSemaphore(AT_ONCE);

/** Draws the page at a path onto a canvas, shrunk while it is decoded, until it is aborted. */
export async function drawPage(
  canvas: HTMLCanvasElement,
  path: string,
  resizeWidth: number,
  signal: AbortSignal,
): Promise<void> {
  await inTurn(signal, async () => {
    const blob = await askBlob(path, signal);
    const bitmap = await createImageBitmap(blob, { resizeWidth, resizeQuality: 'medium' });
    if (!signal.aborted) {
      canvas.width = bitmap.width;
      canvas.height = bitmap.height;
      canvas.getContext('2d')?.drawImage(bitmap, 0, 0);
    }
    bitmap.close();
  });
}
