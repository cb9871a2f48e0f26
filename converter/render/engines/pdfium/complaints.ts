import { NOTHING_DRAWN } from '../engine.ts';
import { forVisibleAnnotations, SUBTYPES } from './annotations.ts';
import { boundsOf, imageObjects, pixelSize } from './images.ts';
import { readBytes, readIntegers } from './memory.ts';
import type { OpenFile } from './open-file.ts';
import { hasDamagedContent, isDamaged, mayPaint } from './raw-file.ts';

/** Finds the parts of a page that PDFium did not draw, from the page and its pixels: PDFium does not report them. */

/** Pages with more images than this are not examined further. */
const MAX_IMAGES = 64;
/** Some files have other bytes behind the end marker of a JPEG. */
const JPEG_TAIL_BYTES = 1024;
const MAX_FILTER_BYTES = 64;
const JPEG_END = Buffer.from([0xff, 0xd9]);
const WHITE = -1;

/** A drawn page. A call of PDFium may move its pixels, so they are read again after each call. */
interface Page {
  width: number;
  height: number;
  pixels(): Int32Array;
}

interface Area {
  left: number;
  top: number;
  right: number;
  bottom: number;
}

/** Returns a sentence for each part that is missing; an empty list for a complete page. */
export function findComplaints(handles: OpenFile, loaded: number, pageObject: number, page: Page): string[] {
  const complaints = new Set<string>();
  if (isWhite(page, { left: 0, top: 0, right: page.width, bottom: page.height })) {
    const hasObjects = handles.pdfium.call.FPDFPage_CountObjects(loaded) > 0 || hasVisibleAnnotation(handles, loaded);
    if (!hasObjects && !mayPaint(handles.file(), pageObject)) return [];
    complaints.add(NOTHING_DRAWN);
  }
  const { shared, content } = handles.damage;
  if (content && hasDamagedContent(handles.file(), pageObject)) complaints.add('the content of the page is damaged');
  else if (shared) complaints.add('a stream of the file is damaged');
  for (const image of imageObjects(handles, loaded).slice(0, MAX_IMAGES)) {
    const complaint = complaintAbout(handles, loaded, image, page);
    if (complaint !== undefined) complaints.add(complaint);
  }
  return [...complaints];
}

/** Links and popups are invisible on a page. */
function hasVisibleAnnotation(handles: OpenFile, loaded: number): boolean {
  let isVisible = false;
  forVisibleAnnotations(handles, loaded, (_, subtype) => {
    isVisible ||= subtype !== SUBTYPES.LINK && subtype !== SUBTYPES.POPUP;
  });
  return isVisible;
}

function complaintAbout(handles: OpenFile, loaded: number, image: number, page: Page): string | undefined {
  const { call } = handles.pdfium;
  const { width, height } = pixelSize(handles, image);
  if (width === 0 || height === 0) return 'an image has no size';
  const filters = call.FPDFImageObj_GetImageFilterCount(image);
  const filter = filters === 1 ? filterOf(handles, image) : '';
  if (filter === 'DCTDecode' && !rawData(handles, image).subarray(-JPEG_TAIL_BYTES).includes(JPEG_END)) {
    return 'an image is damaged';
  }
  const area = areaOf(handles, loaded, image, page);
  if (area === undefined) return undefined;
  if (isWhite(page, area)) {
    const bitmap = call.FPDFImageObj_GetBitmap(image);
    if (bitmap === 0) return 'an image cannot be decoded';
    call.FPDFBitmap_Destroy(bitmap);
  }
  const suspicious = filter === 'FlateDecode' && hasUniformEdge(page, area);
  return suspicious && isDamaged(rawData(handles, image)) ? 'an image is damaged' : undefined;
}

function filterOf({ pdfium }: OpenFile, image: number): string {
  const { call } = pdfium;
  const text = readBytes(pdfium, MAX_FILTER_BYTES, (at) =>
    call.FPDFImageObj_GetImageFilter(image, 0, at, MAX_FILTER_BYTES),
  );
  return text.toString('latin1').replace('\0', '');
}

function rawData({ pdfium }: OpenFile, image: number): Buffer {
  const { call } = pdfium;
  const bytes = call.FPDFImageObj_GetImageDataRaw(image, 0, 0);
  return bytes === 0
    ? Buffer.alloc(0)
    : readBytes(pdfium, bytes, (at) => call.FPDFImageObj_GetImageDataRaw(image, at, bytes));
}

/** The area of an image on the page in whole pixels; undefined for an image that lies outside. */
function areaOf({ pdfium }: OpenFile, loaded: number, image: number, page: Page): Area | undefined {
  const bounds = boundsOf(pdfium, image);
  if (bounds === undefined) return undefined;
  const toPixels = (x = 0, y = 0) =>
    readIntegers(pdfium, 2, (at) =>
      pdfium.call.FPDF_PageToDevice(loaded, 0, 0, page.width, page.height, 0, x, y, at, at + 4),
    ) ?? [];
  const [left, bottom, right, top] = bounds;
  const [x1 = 0, y1 = 0] = toPixels(left, bottom);
  const [x2 = 0, y2 = 0] = toPixels(right, top);
  const area = {
    left: Math.max(0, Math.min(x1, x2) + 1),
    top: Math.max(0, Math.min(y1, y2) + 1),
    right: Math.min(page.width, Math.max(x1, x2) - 1),
    bottom: Math.min(page.height, Math.max(y1, y2) - 1),
  };
  return area.left < area.right && area.top < area.bottom ? area : undefined;
}

function isWhite(page: Page, area: Area): boolean {
  return isUniform(page.pixels(), page.width, area, WHITE);
}

function hasUniformEdge(page: Page, { left, top, right, bottom }: Area): boolean {
  const { width } = page;
  const pixels = page.pixels();
  const edges = [
    { left, top, right, bottom: top + 1 },
    { left, top: bottom - 1, right, bottom },
    { left, top, right: left + 1, bottom },
    { left: right - 1, top, right, bottom },
  ];
  return edges.some((edge) => isUniform(pixels, width, edge, pixels[edge.top * width + edge.left] ?? WHITE));
}

function isUniform(pixels: Int32Array, width: number, { left, top, right, bottom }: Area, value: number): boolean {
  for (let row = top; row < bottom; row++) {
    for (let at = row * width + left, end = row * width + right; at < end; at++) {
      if (pixels[at] !== value) return false;
    }
  }
  return true;
}
