import { boundsOf } from './images.ts';
import { readFloats, readIntegers, withText, withWideText } from './memory.ts';
import type { OpenFile } from './open-file.ts';
import type { Pdfium } from './pdfium.ts';

/** Stamps and file attachments as objects of a loaded page. */

const MAIN_COLOR = 0;
const NO_FILL = 0;
const DARK_RED = [190, 20, 20];
const OPAQUE = 255;
/** The maximum shares of a stamp's width and height for its text. */
const TEXT_WIDTH = 0.86;
const TEXT_HEIGHT = 0.55;
/** The thickness of a line as a share of the shorter side of a box. */
const LINE_WIDTH = 1 / 16;
/** Points of lines, as shares of a box. */
const BORDER = '0 0, 1 0, 1 1, 0 1, 0 0';
const PAPER_CLIP = '0.68 0.7, 0.68 0.25, 0.5 0.08, 0.32 0.25, 0.32 0.78, 0.46 0.92, 0.58 0.78, 0.58 0.35';
/** The largest side of a paper clip in points. */
const MAX_CLIP = 24;

interface Box {
  left: number;
  bottom: number;
  width: number;
  height: number;
}

/** Adds a stamp with its name in capitals: NOT APPROVED for `NotApproved`. */
export function addStamp({ pdfium, document }: OpenFile, loaded: number, annotation: number, name: string): void {
  const text = name.replace(/(\p{Ll})(\p{Lu})/gu, '$1 $2').toUpperCase();
  const box = withoutMargin(boxOf(pdfium, annotation));
  insert(pdfium, loaded, annotation, [newLine(pdfium, BORDER, box), newText(pdfium, document, text, box)]);
}

export function addPaperClip({ pdfium }: OpenFile, loaded: number, annotation: number): void {
  const { left, bottom, width, height } = boxOf(pdfium, annotation);
  const side = Math.min(width, height, MAX_CLIP);
  const box = { left: left + (width - side) / 2, bottom: bottom + (height - side) / 2, width: side, height: side };
  insert(pdfium, loaded, annotation, [newLine(pdfium, PAPER_CLIP, box)]);
}

function newLine({ call }: Pdfium, points: string, { left, bottom, width, height }: Box): number {
  const [[startX = 0, startY = 0] = [], ...others] = points.split(', ').map((point) => {
    const [across = 0, up = 0] = point.split(' ').map(Number);
    return [left + across * width, bottom + up * height] as const;
  });
  const line = call.FPDFPageObj_CreateNewPath(startX, startY);
  for (const [x, y] of others) call.FPDFPath_LineTo(line, x, y);
  call.FPDFPageObj_SetStrokeWidth(line, Math.min(width, height) * LINE_WIDTH);
  call.FPDFPath_SetDrawMode(line, NO_FILL, 1);
  return line;
}

/** A text in the largest size that fits, in the middle of a box. */
function newText(pdfium: Pdfium, document: number, text: string, box: Box): number {
  const { call } = pdfium;
  const object = withText(pdfium, 'Helvetica-Bold', (font) => call.FPDFPageObj_NewTextObj(document, font, 12));
  withWideText(pdfium, text, (at) => call.FPDFText_SetText(object, at));
  const [left = 0, bottom = 0, right = 0, top = 0] = boundsOf(pdfium, object) ?? [];
  const [width, height] = [Math.max(1, right - left), Math.max(1, top - bottom)];
  const scale = Math.min((box.width * TEXT_WIDTH) / width, (box.height * TEXT_HEIGHT) / height);
  const x = box.left + (box.width - width * scale) / 2 - left * scale;
  const y = box.bottom + (box.height - height * scale) / 2 - bottom * scale;
  call.FPDFPageObj_Transform(object, scale, 0, 0, scale, x, y);
  return object;
}

/** Inserts objects into the page, in the colour and opacity of the annotation. */
function insert(pdfium: Pdfium, loaded: number, annotation: number, objects: number[]): void {
  const { call } = pdfium;
  const color = readIntegers(pdfium, 3, (at) => call.EPDFAnnot_GetColor(annotation, MAIN_COLOR, at, at + 4, at + 8));
  const opacity = readIntegers(pdfium, 1, (at) => call.EPDFAnnot_GetOpacity(annotation, at));
  const [red = 0, green = 0, blue = 0] = color ?? DARK_RED;
  const [alpha = OPAQUE] = opacity ?? [];
  for (const object of objects) {
    call.FPDFPageObj_SetStrokeColor(object, red, green, blue, alpha);
    call.FPDFPageObj_SetFillColor(object, red, green, blue, alpha);
    call.FPDFPage_InsertObject(loaded, object);
  }
}

function boxOf(pdfium: Pdfium, annotation: number): Box {
  const { call } = pdfium;
  const [left = 0, top = 0, right = 0, bottom = 0] =
    readFloats(pdfium, 4, (at) => call.FPDFAnnot_GetRect(annotation, at)) ?? [];
  return { left, bottom, width: right - left, height: top - bottom };
}

/** Half of a border lies outside of its box, so the box is reduced. */
function withoutMargin({ left, bottom, width, height }: Box): Box {
  const margin = Math.min(width, height) * LINE_WIDTH;
  return { left: left + margin / 2, bottom: bottom + margin / 2, width: width - margin, height: height - margin };
}
