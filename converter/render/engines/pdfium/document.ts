import { sidePixels } from '../../fit.ts';
import { type DrawnPage, oneAfterTheOther, type PageBox, type PdfDocument } from '../engine.ts';
import { findComplaints } from './complaints.ts';
import { type ImageSize, imageObjects, pixelSize } from './images.ts';
import { runChecked } from './instance.ts';
import { allocate, readFloats } from './memory.ts';
import { addMissingAppearances } from './missing-appearances.ts';
import { closeFile, type OpenFile, openFile } from './open-file.ts';
import { userUnitOf } from './raw-file.ts';

export interface PdfiumDocument extends PdfDocument {
  /** The images that a page draws, those in its form XObjects included. None is decoded. */
  images(page: number): Promise<ImageSize[]>;
}

const BGRX = 3;
const WHITE = 0xffffffff;
const WITH_ANNOTATIONS = 0x01;
const REVERSE_BYTE_ORDER = 0x10;

/**
 * Opens a PDF file, whose bytes PDFium keeps in memory. Throws AppError `encrypted_pdf` for an encrypted file without a
 * password, `wrong_password`, `unsupported_feature` for unknown encryption, or `corrupt_file` for a file that cannot be
 * read or has no pages.
 */
export async function openWithPdfium(file: string, password: string | null): Promise<PdfiumDocument> {
  let handles = await openFile(file, password);

  /** Opens the file again first when the page before trapped the instance. */
  async function onPage<T>(page: number, what: string, work: () => T): Promise<T> {
    if (handles.pdfium.trapped) handles = await openFile(file, password);
    return runChecked(handles.pdfium, `page ${page} cannot be ${what}`, work);
  }

  async function render(page: number, scale: number): Promise<DrawnPage> {
    const box = await onPage(page, 'read', () => sizeOf(handles, page));
    const [width, height] = [sidePixels(box.width * scale), sidePixels(box.height * scale)];
    return onPage(page, 'drawn', () => drawPage(handles, page, width, height));
  }

  const inTurn = oneAfterTheOther();
  return {
    pageCount: handles.pageCount,
    pageBox: (page) => inTurn(() => onPage(page, 'read', () => sizeOf(handles, page))),
    render: (page, scale) => inTurn(() => render(page, scale)),
    images: (page) => inTurn(() => onPage(page, 'read', () => imagesOf(handles, page))),
    close: () => inTurn(async () => closeFile(handles)),
  };
}

/** PDFium returns sizes without UserUnit. */
function sizeOf(handles: OpenFile, page: number): PageBox {
  const { pdfium, document } = handles;
  const object = pdfium.call.EPDFDoc_GetPageObjectNumberByIndex(document, page - 1);
  const unit = handles.hasUserUnit ? userUnitOf(handles.file(), object) : 1;
  const size = readFloats(pdfium, 2, (at) => pdfium.call.FPDF_GetPageSizeByIndexF(document, page - 1, at));
  if (size === undefined) throw new Error('no such page');
  const [width = 0, height = 0] = size;
  // A CropBox outside of the MediaBox leaves no area.
  if (width <= 0 || height <= 0) throw new Error('the page has no area');
  return { width: width * unit, height: height * unit };
}

/** The pixels stay in PDFium's memory: a copy would take as much again. */
function drawPage(handles: OpenFile, page: number, width: number, height: number): DrawnPage {
  const { pdfium, form } = handles;
  const { call } = pdfium;
  return withPage(handles, page, (loaded) => {
    const at = bitmapMemory(handles, width * height * 4);
    const bitmap = call.FPDFBitmap_CreateEx(width, height, BGRX, at, width * 4);
    if (bitmap === 0) throw new Error('no bitmap of this size');
    call.FPDFBitmap_FillRect(bitmap, 0, 0, width, height, WHITE);
    addMissingAppearances(handles, loaded);
    call.FORM_OnAfterLoadPage(loaded, form);
    call.FPDF_RenderPageBitmap(bitmap, loaded, 0, 0, width, height, 0, WITH_ANNOTATIONS | REVERSE_BYTE_ORDER);
    call.FPDF_FFLDraw(form, bitmap, loaded, 0, 0, width, height, 0, REVERSE_BYTE_ORDER);
    call.FORM_OnBeforeClosePage(loaded, form);
    call.FPDFBitmap_Destroy(bitmap);
    const pageObject = call.EPDFDoc_GetPageObjectNumberByIndex(handles.document, page - 1);
    const pixels = () => new Int32Array(pdfium.memory().buffer, at, width * height);
    const complaints = findComplaints(handles, loaded, pageObject, { width, height, pixels });
    return { data: pdfium.memory().subarray(at, at + width * height * 4), width, height, channels: 4, complaints };
  });
}

/** Memory for the pixels of a page, kept until a page needs more. */
function bitmapMemory({ pdfium, bitmap }: OpenFile, bytes: number): number {
  if (bitmap.bytes < bytes) {
    pdfium.call.free(bitmap.at);
    Object.assign(bitmap, { at: 0, bytes: 0 });
    Object.assign(bitmap, { at: allocate(pdfium, bytes), bytes });
  }
  return bitmap.at;
}

function imagesOf(handles: OpenFile, page: number): ImageSize[] {
  return withPage(handles, page, (loaded) => imageObjects(handles, loaded).map((object) => pixelSize(handles, object)));
}

function withPage<T>({ pdfium, document }: OpenFile, page: number, use: (loaded: number) => T): T {
  const loaded = pdfium.call.FPDF_LoadPage(document, page - 1);
  if (loaded === 0) throw new Error('no such page');
  try {
    return use(loaded);
  } finally {
    pdfium.call.FPDF_ClosePage(loaded);
  }
}
