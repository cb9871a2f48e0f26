import { saveLate } from '../../../../../converter/render/engines/pdf-to-img/late-saves.ts';
import type { Context } from '../../../../../converter/render/engines/pdf-to-img/sheet.ts';

// The copy that pdf.js draws with; jest has a require of its own.
const { createRequire } = process.getBuiltinModule('node:module');
const pdfToImg = createRequire(import.meta.url).resolve('pdf-to-img');
const fromPdfJs = createRequire(createRequire(pdfToImg).resolve('pdfjs-dist/package.json'));
const { createCanvas, Path2D } = fromPdfJs('@napi-rs/canvas') as {
  createCanvas(width: number, height: number): { getContext(type: '2d'): Drawing & Context; data(): Buffer };
  Path2D: new (path: string) => object;
};

interface Drawing {
  fillStyle: string;
  strokeStyle: string;
  lineWidth: number;
  globalAlpha: number;
  save(): void;
  restore(): void;
  translate(x: number, y: number): void;
  scale(x: number, y: number): void;
  rotate(angle: number): void;
  setTransform(...matrix: number[]): void;
  getTransform(): { a: number; d: number; e: number; f: number };
  beginPath(): void;
  rect(x: number, y: number, width: number, height: number): void;
  fillRect(x: number, y: number, width: number, height: number): void;
  fill(path?: object, rule?: string): void;
  stroke(path?: object): void;
  clip(path?: object): void;
}

const SIZE = 120;
const LETTER = new Path2D('M0 0L500 0L500 700C300 800 200 300 0 0Z');
const SQUARE = new Path2D('M0 0H20V20H0ZM5 5H15V15H5Z');
const OTHER_SQUARE = new Path2D('M10 10H40V40H10Z');

function pixelsOf(draw: (context: Drawing) => void, late: boolean): Buffer {
  const canvas = createCanvas(SIZE, SIZE);
  const context = canvas.getContext('2d');
  if (late) saveLate(context);
  draw(context);
  return Buffer.from(canvas.data());
}

function letter(context: Drawing, x: number, y: number): void {
  context.save();
  context.translate(x, y);
  context.scale(0.03, -0.03);
  context.fill(LETTER);
  context.restore();
}

test.each<[string, (context: Drawing) => void]>([
  [
    'letters in a row, and what comes after them',
    (context) => {
      context.translate(3, 7);
      context.scale(1.5, 0.8);
      for (let x = 0; x < 60; x += 17) letter(context, x, 40);
      context.fillRect(20, 50, 10, 10);
    },
  ],
  [
    'a style, an opacity and a clip, which end with their save',
    (context) => {
      context.save();
      context.fillStyle = '#d00';
      context.globalAlpha = 0.5;
      context.fill(SQUARE);
      context.translate(30, 0);
      context.clip(SQUARE);
      context.fill(OTHER_SQUARE);
      context.restore();
      context.translate(0, 60);
      context.fill(SQUARE);
      context.fill(OTHER_SQUARE);
    },
  ],
  [
    'saves in saves',
    (context) => {
      context.save();
      context.translate(20, 20);
      letter(context, 0, 20);
      context.save();
      context.scale(2, 2);
      context.fill(SQUARE, 'evenodd');
      context.save();
      context.translate(20, 5);
      context.fill(SQUARE);
      context.restore();
      context.fillRect(0, 30, 4, 4);
      context.restore();
      context.fillRect(60, 60, 9, 9);
      context.restore();
      context.fillRect(0, 0, 9, 9);
    },
  ],
  [
    'a path made before and within a save, a stroke, and transforms of any kind',
    (context) => {
      context.beginPath();
      context.rect(2, 2, 10, 10);
      context.save();
      context.translate(50, 50);
      context.rect(0, 0, 15, 5);
      context.fill();
      context.rotate(0.5);
      context.lineWidth = 3;
      context.stroke(SQUARE);
      context.restore();
      context.stroke(SQUARE);
      context.save();
      context.setTransform(2, 0, 0.5, 1, 10, 80);
      context.fill(SQUARE);
      context.restore();
      context.fill(OTHER_SQUARE);
    },
  ],
  [
    'a restore without a save',
    (context) => {
      context.translate(10, 10);
      context.restore();
      letter(context, 10, 60);
      context.restore();
      context.fill(SQUARE);
    },
  ],
])('a context that saves late draws the same: %s', (_, draw) => {
  const [late, native] = [pixelsOf(draw, true), pixelsOf(draw, false)];
  expect(native.some((value) => value > 0)).toBe(true);
  // A transform multiplied in doubles is rounded otherwise than one in floats.
  expect(Math.max(...late.map((value, at) => Math.abs(value - (native[at] ?? 0))))).toBeLessThanOrEqual(8);
});

test('a save that is late shows its transform to whoever asks', () => {
  const context = createCanvas(SIZE, SIZE).getContext('2d');
  saveLate(context);
  context.translate(10, 20);
  context.save();
  context.scale(2, 3);
  context.translate(1, 1);
  expect(context.getTransform()).toMatchObject({ a: 2, d: 3, e: 12, f: 23 });
  context.restore();
  expect(context.getTransform()).toMatchObject({ a: 1, d: 1, e: 10, f: 20 });
});

test('letters need no save; one that a style follows is made', () => {
  const context = createCanvas(SIZE, SIZE).getContext('2d');
  const native = Object.getPrototypeOf(context) as Drawing;
  const { save } = native;
  let saves = 0;
  native.save = function counted() {
    saves++;
    save.call(this);
  };
  try {
    saveLate(context);
    for (let x = 0; x < 60; x += 17) letter(context, x, 40);
    expect(saves).toBe(0);
    context.save();
    context.fillStyle = '#d00';
    expect(saves).toBe(1);
  } finally {
    native.save = save;
  }
});
