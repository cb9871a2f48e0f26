import { MAX_SIDE, sidePixels } from '../../fit.ts';
import { saveLate } from './late-saves.ts';
import { type Canvas, type Context, type CreateCanvas, drawSheets, Sheet } from './sheet.ts';

/** A canvas and its context as pdf.js passes them around; null once destroyed. */
interface Entry {
  canvas: Canvas | Sheet | null;
  context: Context | null;
}

/** Thrown into pdf-to-img in place of a canvas, when only the size of the page was asked for. */
export class Measured extends Error {
  readonly width: number;
  readonly height: number;

  constructor(width: number, height: number) {
    super('measured');
    this.width = width;
    this.height = height;
  }
}

/** No canvas of a page, a group or a pattern is larger: what is, holds an image. */
const LARGE = (MAX_SIDE + 1) ** 2;

/**
 * The canvas factory of one document, in the form that pdf.js wants, and the canvas of the page that is being drawn.
 * `next` says what the first canvas is asked for: for a page to draw, or only to learn its size. Later ones are temporaries.
 */
export function createCanvases(createCanvas: CreateCanvas) {
  function create(width: number, height: number): Canvas {
    const canvas = createCanvas(width, height);
    saveLate(canvas.getContext('2d'));
    return drawSheets(canvas, createCanvas);
  }
  const canvases = {
    next: null as 'draw' | 'measure' | null,
    page: null as Canvas | null,

    create(width: number, height: number): Entry {
      const use = canvases.next;
      canvases.next = null;
      if (use === 'measure') throw new Measured(width, height);
      const w = sidePixels(width);
      const h = sidePixels(height);
      const canvas = !use && w * h > LARGE ? new Sheet(w, h, create) : create(w, h);
      if (use && !(canvas instanceof Sheet)) canvases.page = rawOutput(canvas);
      return { canvas, context: canvas.getContext('2d') };
    },

    reset(entry: Entry, width: number, height: number): void {
      canvases.destroy(entry);
      // pdf.js resets a canvas only to shrink an image into it, step by step.
      const sheet = new Sheet(width, height, create);
      Object.assign(entry, { canvas: sheet, context: sheet.getContext('2d') });
    },

    destroy(entry: Entry): void {
      if (entry.canvas instanceof Sheet) entry.canvas.free();
      // Waiting for the garbage collector would keep megabytes that it does not see.
      else if (entry.canvas) entry.canvas.width = entry.canvas.height = 0;
      entry.canvas = entry.context = null;
    },
  };
  return canvases;
}

/** Makes a canvas answer with its pixels when pdf-to-img asks it for a PNG: encoding is done elsewhere, and faster. */
function rawOutput(canvas: Canvas): Canvas {
  canvas.toBuffer = canvas.data;
  return canvas;
}
