import { sidePixels } from '../../fit.ts';
import { substituteFonts } from './substitute-fonts.ts';

/** The parts of a canvas of @napi-rs/canvas that this engine uses. */
interface Canvas {
  width: number;
  height: number;
  getContext(type: '2d'): Context;
  data(): Buffer;
}

interface Context {
  font: string;
}

export type CreateCanvas = (width: number, height: number) => Canvas;

/** A canvas and its context in the form that pdf.js expects; the canvas is null once it is destroyed. */
interface Entry {
  canvas: Canvas | PageCanvas | null;
  context: unknown;
}

/** Thrown through pdf-to-img in place of a canvas: ends the drawing of a page of which only the size is needed. */
export class Measured extends Error {
  readonly width: number;
  readonly height: number;

  constructor(width: number, height: number) {
    super('measured');
    this.width = width;
    this.height = height;
  }
}

/** The canvas of a page. pdf-to-img asks it for a PNG and gets the pixels, because the sandbox encodes them faster. */
class PageCanvas {
  readonly #canvas: Canvas;
  readonly #context: Context;

  constructor(canvas: Canvas, context: Context) {
    this.#canvas = canvas;
    this.#context = context;
  }

  get width(): number {
    return this.#canvas.width;
  }

  get height(): number {
    return this.#canvas.height;
  }

  getContext(): Context {
    return this.#context;
  }

  toBuffer(): Buffer {
    return this.#canvas.data();
  }

  free(): void {
    free(this.#canvas);
  }
}

/** The canvas factory of one document, as pdf.js calls it. */
export class CanvasFactory {
  /** The use of the next canvas: the page to draw, or only its size. Null for a temporary canvas. */
  next: 'draw' | 'measure' | null = null;
  #page: PageCanvas | null = null;
  readonly #createCanvas: CreateCanvas;

  constructor(createCanvas: CreateCanvas) {
    this.#createCanvas = createCanvas;
  }

  /** The size of the page that was drawn last, until it is released. */
  get pageSize(): { width: number; height: number } {
    const { width = 0, height = 0 } = this.#page ?? {};
    return { width, height };
  }

  create(width: number, height: number): Entry {
    const use = this.next;
    this.next = null;
    if (use === 'measure') throw new Measured(width, height);
    // @napi-rs/canvas cuts off the fraction of a pixel that a side may have.
    const canvas = this.#createCanvas(sidePixels(width), sidePixels(height));
    const context = canvas.getContext('2d');
    substituteFonts(context);
    if (use !== 'draw') return { canvas, context };
    this.#page = new PageCanvas(canvas, context);
    return { canvas: this.#page, context };
  }

  reset({ canvas }: Entry, width: number, height: number): void {
    if (canvas) Object.assign(canvas, { width, height });
  }

  destroy(entry: Entry): void {
    if (entry.canvas instanceof PageCanvas) entry.canvas.free();
    else if (entry.canvas) free(entry.canvas);
    entry.canvas = entry.context = null;
  }

  /** Frees the canvas of the page. */
  release(): void {
    this.#page?.free();
    this.#page = null;
  }
}

/** The garbage collector does not see the pixels and would keep them for long. */
function free(canvas: Canvas): void {
  canvas.width = canvas.height = 0;
}
