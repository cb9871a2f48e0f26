import type { PdfEngine } from '../../../jobs/task.ts';
import { AppError } from '../../../runtime/errors.ts';
import type { PageFit } from '../fit.ts';
import { type DrawnPage, mayOtherEngineSucceed, NOTHING_DRAWN } from './engine.ts';

/** A page as one engine drew it. */
interface Drawing {
  image: DrawnPage;
  fit: PageFit;
  engine: PdfEngine;
}

/** A drawing, or the error with which an engine failed. */
export type DrawResult = { drawing: Drawing; error: null } | { drawing: null; error: unknown };

export interface ChosenPage extends Drawing {
  /** Why another engine than the first drew the page, or what is missing on it; else null. */
  note: string | null;
}

/** Why a page by the first engine needs the second engine; null for a complete page. */
export function reasonAgainst({ drawing, error }: DrawResult): string | null {
  if (drawing === null) return error instanceof Error ? error.message : 'the page cannot be drawn';
  return isComplete(drawing) ? null : drawing.image.complaints.join('; ');
}

/**
 * Chooses between the results of two engines of which the first is not complete, for the given reason. The second is
 * chosen when it is not blank, and complete or with more ink. A page that both engines leave blank is blank, unless the
 * first complains of damage. Throws when neither engine shows anything of a page that should show something.
 */
export function choosePage(
  page: number,
  first: DrawResult & { engine: PdfEngine | undefined; reason: string | null },
  second: DrawResult,
): ChosenPage {
  const firstInk = first.drawing === null ? 0 : inkOf(first.drawing);
  const secondInk = second.drawing === null ? 0 : inkOf(second.drawing);
  const note = `${first.engine}: ${first.reason}`;
  if (second.drawing !== null && secondInk > 0) {
    if (isComplete(second.drawing)) return { ...second.drawing, note };
    const { engine, image } = second.drawing;
    if (secondInk > firstInk) {
      return { ...second.drawing, note: `${note}; also by ${engine}: ${image.complaints.join('; ')}` };
    }
  }
  if (first.drawing === null) throw first.error;
  if (firstInk > 0) return { ...first.drawing, note };
  const mayBeBlank = first.drawing.image.complaints.every((complaint) => complaint === NOTHING_DRAWN);
  if (second.drawing !== null && isComplete(second.drawing) && mayBeBlank) return { ...first.drawing, note: null };
  if (second.error instanceof AppError && !mayOtherEngineSucceed(second.error)) throw second.error;
  throw new AppError('corrupt_file', `page ${page} cannot be drawn: ${first.reason}`);
}

function isComplete({ image }: Drawing): boolean {
  return image.complaints.length === 0;
}

/** How many pixels are not white. */
function inkOf({ image: { data, width, height } }: Drawing): number {
  let count = 0;
  const pixels = new Int32Array(data.buffer, data.byteOffset, width * height);
  for (const pixel of pixels) if (pixel !== -1) count++;
  return count;
}
