import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { inflateSync } from 'node:zlib';
import { AppError } from '../../../../errors.ts';
import { sidePixels } from '../../fit.ts';
import { oneAfterTheOther, type PageBox, type PdfDocument, type RawImage } from '../engine.ts';
import { allocate, attempt, currentEngine, type Engine, withMemory, withText } from './instance.ts';

/** The size in pixels of an image in a PDF, as its dictionary tells it. */
export interface EmbeddedImage {
  width: number;
  height: number;
}

export interface PdfiumDocument extends PdfDocument {
  /** The images that a page draws, those in its form XObjects too. None is decoded. */
  images(page: number): Promise<EmbeddedImage[]>;
}

/** An open file: addresses in the engine's memory, 0 for what is not there. */
interface Handles {
  engine: Engine;
  bytes: number;
  document: number;
  formInfo: number;
  form: number;
  pageCount: number;
  mayHaveUserUnit: boolean;
}

const WRONG_PASSWORD = 4;
const IMAGE = 3;
const FORM = 5;
const BGRX = 3;
const WHITE = 0xffffffff;
const WITH_ANNOTATIONS = 0x01;
const REVERSE_BYTE_ORDER = 0x10;
/** FPDF_FORMFILLINFO has 140 bytes; callbacks that are null are not called. */
const FORM_INFO_BYTES = 256;
const FORM_INFO_VERSION = 2;
/** Object streams are not searched further than this. */
const MAX_SEARCHED = 64 * 2 ** 20;

/**
 * Opens a PDF file, whose bytes PDFium keeps in memory. Throws AppError `encrypted_pdf` when it wants a password and got
 * none, `wrong_password`, or `corrupt_file` when it cannot be read or has no pages.
 */
export async function openWithPdfium(file: string, password: string | null): Promise<PdfiumDocument> {
  let handles = openFile(await currentEngine(), file, password);
  // PDFium does not know UserUnit.
  const sizes = handles.mayHaveUserUnit ? await openForSizes(handles, file, password) : null;

  /** Opens the file again when a page, of whatever document, was the end of the engine. */
  async function onPage<T>(page: number, what: string, work: () => T): Promise<T> {
    if (handles.engine.trapped) handles = openFile(await currentEngine(), file, password);
    return attempt(handles.engine, `page ${page} cannot be ${what}`, work);
  }

  async function pageBox(page: number): Promise<PageBox> {
    return sizes ? sizes.pageBox(page) : onPage(page, 'read', () => sizeOf(handles, page));
  }

  async function render(page: number, scale: number): Promise<RawImage> {
    const box = await pageBox(page);
    const [width, height] = [sidePixels(box.width * scale), sidePixels(box.height * scale)];
    return onPage(page, 'drawn', () => drawPage(handles, page, width, height));
  }

  async function close(): Promise<void> {
    closeFile(handles);
    await sizes?.close();
  }

  const inTurn = oneAfterTheOther();
  return {
    pageCount: handles.pageCount,
    pageBox: (page) => inTurn(() => pageBox(page)),
    render: (page, scale) => inTurn(() => render(page, scale)),
    images: (page) => inTurn(() => onPage(page, 'read', () => imagesOf(handles, page))),
    close: () => inTurn(close),
  };
}

function openFile(engine: Engine, file: string, password: string | null): Handles {
  const handles = { engine, bytes: 0, document: 0, formInfo: 0, form: 0, pageCount: 0, mayHaveUserUnit: false };
  try {
    attempt(engine, 'the PDF cannot be read', () => loadFile(handles, file, password));
    if (handles.pageCount === 0) throw new AppError('corrupt_file', 'the PDF has no pages');
    return handles;
  } catch (error) {
    closeFile(handles);
    throw error;
  }
}

function loadFile(handles: Handles, file: string, password: string | null): void {
  const { call } = handles.engine;
  const size = readIntoMemory(handles, file);
  handles.document = withText(handles.engine, password ?? '', (text) =>
    call.FPDF_LoadMemDocument(handles.bytes, size, text),
  );
  if (handles.document === 0) throw openingError(call.FPDF_GetLastError(), password);
  handles.pageCount = call.FPDF_GetPageCount(handles.document);
  handles.formInfo = allocate(handles.engine, FORM_INFO_BYTES);
  handles.engine.memory().fill(0, handles.formInfo, handles.formInfo + FORM_INFO_BYTES);
  handles.engine.memory()[handles.formInfo] = FORM_INFO_VERSION;
  handles.form = call.FPDFDOC_InitFormFillEnvironment(handles.document, handles.formInfo);
}

/** Straight from the disk, for a second copy may be large. Gives the size. */
function readIntoMemory(handles: Handles, file: string): number {
  const descriptor = openSync(file, 'r');
  try {
    const { size } = fstatSync(descriptor);
    handles.bytes = allocate(handles.engine, size + 1);
    const target = handles.engine.memory().subarray(handles.bytes, handles.bytes + size);
    let at = 0;
    for (let read = 1; at < size && read > 0; at += read) read = readSync(descriptor, target, at, size - at, null);
    handles.mayHaveUserUnit = mayHaveUserUnit(Buffer.from(target.buffer, target.byteOffset, at));
    return at;
  } finally {
    closeSync(descriptor);
  }
}

function closeFile({ engine: { call }, form, formInfo, document, bytes }: Handles): void {
  if (form) call.FPDFDOC_ExitFormFillEnvironment(form);
  if (document) call.FPDF_CloseDocument(document);
  call.free(formInfo);
  call.free(bytes);
}

function sizeOf({ engine, document }: Handles, page: number): PageBox {
  return withMemory(engine, 8, (at) => {
    if (!engine.call.FPDF_GetPageSizeByIndexF(document, page - 1, at)) throw new Error('no such page');
    const [width = 0, height = 0] = new Float32Array(engine.memory().buffer, at, 2);
    return { width, height };
  });
}

function drawPage(handles: Handles, page: number, width: number, height: number): RawImage {
  const { engine, form } = handles;
  const { call } = engine;
  const bytes = width * height * 4;
  return withPage(handles, page, (loaded) =>
    withMemory(engine, bytes, (pixels) => {
      const bitmap = call.FPDFBitmap_CreateEx(width, height, BGRX, pixels, width * 4);
      if (bitmap === 0) throw new Error('no bitmap of this size');
      call.FPDFBitmap_FillRect(bitmap, 0, 0, width, height, WHITE);
      call.FORM_OnAfterLoadPage(loaded, form);
      call.FPDF_RenderPageBitmap(bitmap, loaded, 0, 0, width, height, 0, WITH_ANNOTATIONS | REVERSE_BYTE_ORDER);
      call.FPDF_FFLDraw(form, bitmap, loaded, 0, 0, width, height, 0, REVERSE_BYTE_ORDER);
      call.FORM_OnBeforeClosePage(loaded, form);
      call.FPDFBitmap_Destroy(bitmap);
      return { data: engine.memory().slice(pixels, pixels + bytes), width, height, channels: 4 };
    }),
  );
}

function imagesOf(handles: Handles, page: number): EmbeddedImage[] {
  const { call, memory } = handles.engine;
  const sizeOfImage = (object: number) =>
    withMemory(handles.engine, 8, (at) => {
      call.FPDFImageObj_GetImagePixelSize(object, at, at + 4);
      const [width = 0, height = 0] = new Int32Array(memory().buffer, at, 2);
      return { width: Math.max(0, width), height: Math.max(0, height) };
    });
  const imagesAmong = (count: number, objectAt: (index: number) => number): EmbeddedImage[] =>
    Array.from({ length: Math.max(0, count) }, (_, index) => objectAt(index)).flatMap((object) => {
      const type = call.FPDFPageObj_GetType(object);
      if (type === IMAGE) return [sizeOfImage(object)];
      if (type !== FORM) return [];
      return imagesAmong(call.FPDFFormObj_CountObjects(object), (index) => call.FPDFFormObj_GetObject(object, index));
    });
  return withPage(handles, page, (loaded) =>
    imagesAmong(call.FPDFPage_CountObjects(loaded), (index) => call.FPDFPage_GetObject(loaded, index)),
  );
}

function withPage<T>({ engine, document }: Handles, page: number, use: (loaded: number) => T): T {
  const loaded = engine.call.FPDF_LoadPage(document, page - 1);
  if (loaded === 0) throw new Error('no such page');
  try {
    return use(loaded);
  } finally {
    engine.call.FPDF_ClosePage(loaded);
  }
}

/** Whether the name stands in the file, in its object streams, or where only the password would show it. */
function mayHaveUserUnit(file: Buffer): boolean {
  if (file.includes('/UserUnit')) return true;
  const encrypted = file.includes('/Encrypt');
  let left = MAX_SEARCHED;
  for (let at = file.indexOf('/ObjStm'); at !== -1; at = file.indexOf('/ObjStm', at)) {
    if (encrypted) return true;
    const keyword = file.indexOf('stream', at);
    if (keyword === -1) return false;
    at = keyword + (file[keyword + 6] === 0x0d ? 8 : 7);
    try {
      const objects = inflateSync(file.subarray(at), { maxOutputLength: left });
      if (objects.includes('/UserUnit')) return true;
      left -= objects.length;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE') return true;
      // Not compressed, or broken.
    }
  }
  return false;
}

/** The other engine knows UserUnit; where it fails, sizes are those without. */
async function openForSizes(handles: Handles, file: string, password: string | null): Promise<PdfDocument | null> {
  const { openWithPdfToImg } = await import('../pdf-to-img/document.ts');
  return openWithPdfToImg(file, password).catch((error) => {
    if (!error.retryable) return null;
    closeFile(handles);
    throw error;
  });
}

function openingError(code: number, password: string | null): Error {
  if (code !== WRONG_PASSWORD) return new Error(`PDFium's error ${code}`);
  return password
    ? new AppError('wrong_password', 'the password does not open the PDF')
    : new AppError('encrypted_pdf', 'the PDF is encrypted and needs a password');
}
