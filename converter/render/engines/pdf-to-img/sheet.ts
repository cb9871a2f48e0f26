import { type Bitonal, emptyBitonal, halve, packBand, unpackBand } from './bitonal.ts';

/** What this service and its tests use of a canvas of @napi-rs/canvas. */
export interface Canvas {
  width: number;
  height: number;
  getContext(type: '2d'): Context;
  data(): Buffer;
  toBuffer(): Buffer;
}

export interface Context {
  createImageData(width: number, height: number): Pixels;
  putImageData(pixels: Pixels, x: number, y: number): void;
  drawImage(source: unknown, ...at: number[]): void;
}

interface Pixels {
  width: number;
  height: number;
  data: Uint8ClampedArray;
}

export type CreateCanvas = (width: number, height: number) => Canvas;

const BAND_ROWS = 64;

/**
 * Stands in for the canvas of a large image. pdf.js turns each image into RGBA at its full size, whatever is left of it on
 * the page: a scan of 100 megapixels took 1.4 GB and 4 s. Black and white images stay packed here while they arrive and
 * are halved; a real canvas is made as soon as anything else is done to them.
 */
export class Sheet {
  readonly width: number;
  readonly height: number;
  readonly #context: Context;
  readonly #create: CreateCanvas;
  #bitonal: Bitonal | null = null;
  #canvas: Canvas | null = null;

  constructor(width: number, height: number, create: CreateCanvas) {
    this.width = width;
    this.height = height;
    this.#create = create;
    const own = {
      canvas: this,
      createImageData: (w: number, h: number) => ({ width: w, height: h, data: new Uint8ClampedArray(w * h * 4) }),
      putImageData: (pixels: Pixels, x: number, y: number) => this.#put(pixels, x, y),
      drawImage: (source: unknown, ...at: number[]) => this.#draw(source, at),
    };
    this.#context = new Proxy(own, {
      get: (_, name) => (name in own ? Reflect.get(own, name) : member(this.real().getContext('2d'), name)),
      set: (_, name, value) => Reflect.set(this.real().getContext('2d'), name, value),
    });
  }

  getContext(_type: '2d'): Context {
    return this.#context;
  }

  /** The image on a real canvas; `rows` of it when the rest is still to come. */
  real(rows = this.height): Canvas {
    if (this.#canvas) return this.#canvas;
    this.#canvas = this.#create(this.width, this.height);
    if (this.#bitonal) paint(this.#bitonal, rows, this.#canvas);
    this.#bitonal = null;
    return this.#canvas;
  }

  /** What `drawImage(this, ...at)` draws, if that is all of a packed image at half its size: pdf.js shrinks in such steps. */
  half(at: number[]): Bitonal | null {
    const [left, top, width, height, , , across = 0, down = 0] = at;
    const whole = left === 0 && top === 0 && width === this.width && height === this.height;
    const steps =
      halfOrAll(across, this.width) && halfOrAll(down, this.height) && across * down < this.width * this.height;
    return this.#bitonal && whole && steps ? halve(this.#bitonal, across, down) : null;
  }

  free(): void {
    this.#bitonal = null;
    if (this.#canvas) this.#canvas.width = this.#canvas.height = 0;
  }

  #put(pixels: Pixels, x: number, y: number): void {
    const rows = Math.min(pixels.height, this.height - y);
    if (!this.#canvas && x === 0 && pixels.width === this.width) {
      this.#bitonal ??= emptyBitonal(this.width, this.height);
      if (packBand(this.#bitonal, pixels.data, y, rows)) return;
    }
    const context = this.real(y).getContext('2d');
    const copy = context.createImageData(pixels.width, pixels.height);
    copy.data.set(pixels.data);
    context.putImageData(copy, x, y);
  }

  #draw(source: unknown, at: number[]): void {
    const half = !this.#canvas && source instanceof Sheet ? source.half(at) : null;
    if (half?.width === this.width && half.height === this.height) this.#bitonal = half;
    else
      this.real()
        .getContext('2d')
        .drawImage(source, ...at);
  }
}

/** Teaches a real canvas to draw sheets; `create` makes the canvas for one that was halved on its way. */
export function drawSheets(canvas: Canvas, create: CreateCanvas): Canvas {
  const context = canvas.getContext('2d');
  const drawImage = context.drawImage.bind(context);
  context.drawImage = (source, ...at) => {
    if (!(source instanceof Sheet)) return drawImage(source, ...at);
    const half = source.half(at);
    if (!half) return drawImage(source.real(), ...at);
    const canvas = create(half.width, half.height);
    paint(half, half.height, canvas);
    drawImage(canvas, 0, 0, half.width, half.height, ...at.slice(4));
    canvas.width = canvas.height = 0;
  };
  return canvas;
}

function paint(picture: Bitonal, rows: number, canvas: Canvas): void {
  const context = canvas.getContext('2d');
  const band = context.createImageData(picture.width, Math.min(BAND_ROWS, picture.height));
  for (let y = 0; y < rows; y += BAND_ROWS) {
    unpackBand(picture, y, Math.min(band.height, picture.height - y), band.data);
    context.putImageData(band, 0, y);
  }
}

function halfOrAll(length: number, of: number): boolean {
  return length === of || length === Math.ceil(of / 2);
}

function member(context: Context, name: string | symbol): unknown {
  const value = Reflect.get(context, name);
  return typeof value === 'function' ? value.bind(context) : value;
}
