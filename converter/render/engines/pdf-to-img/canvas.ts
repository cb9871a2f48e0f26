import { sidePixels } from '../../fit.ts';
import { substituteFonts } from './substitute-fonts.ts';

/** The parts of a canvas of @napi-rs/canvas that this engine uses. */
interface Canvas {
  width: number;
  height: number;
  getContext(type: '2d'): { font: string };
  data(): Buffer;
  toBuffer(): Buffer;
}

export type CreateCanvas = (width: number, height: number) => Canvas;

/** A canvas and its context, as pdf.js passes them around; null once destroyed. */
interface Entry {
  canvas: Canvas | null;
  context: unknown;
}

/** Thrown through pdf-to-img in place of a canvas: ends the drawing of a page whose size alone is wanted. */
export class Measured extends Error {
  readonly width: number;
  readonly height: number;

  constructor(width: number, height: number) {
    super('measured');
    this.width = width;
    this.height = height;
  }
}

/**
 * The canvas factory of one document, in the form that pdf.js wants. `next` is the use of the next canvas: the page to
 * draw (kept in `page`), or only its size. All other canvases are temporary.
 */
export function createCanvases(createCanvas: CreateCanvas) {
  const canvases = {
    next: null as 'draw' | 'measure' | null,
    page: null as Canvas | null,

    create(width: number, height: number): Entry {
      const use = canvases.next;
      canvases.next = null;
      if (use === 'measure') throw new Measured(width, height);
      // A side of the page may be a fraction of a pixel too long, which @napi-rs/canvas would cut off.
      const canvas = createCanvas(sidePixels(width), sidePixels(height));
      const context = canvas.getContext('2d');
      substituteFonts(context);
      if (use === 'draw') {
        canvases.page = canvas;
        // pdf-to-img returns a PNG; the sandbox encodes the pixels faster, and in grey where they are.
        canvas.toBuffer = canvas.data;
      }
      return { canvas, context };
    },

    reset({ canvas }: Entry, width: number, height: number): void {
      if (canvas) Object.assign(canvas, { width, height });
    },

    destroy(entry: Entry): void {
      free(entry.canvas);
      entry.canvas = entry.context = null;
    },

    /** Frees the canvas of the page. */
    release(): void {
      free(canvases.page);
      canvases.page = null;
    },
  };
  return canvases;
}

/** The garbage collector does not see the pixels, and would keep them for long. */
function free(canvas: Canvas | null): void {
  if (canvas) canvas.width = canvas.height = 0;
}
