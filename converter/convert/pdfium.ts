import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { inflateSync } from 'node:zlib';
import { AppError } from '../../errors.ts';
import { sidePixels } from './fit.ts';
import type { PageBox, PdfDocument, RawImage } from './pdf.ts';

/** The size in pixels of an image in a PDF, as its dictionary tells it. */
export interface EmbeddedImage {
  width: number;
  height: number;
}

export interface PdfiumDocument extends PdfDocument {
  /** The images that a page draws, those in its form XObjects too. None is decoded. */
  images(page: number): Promise<EmbeddedImage[]>;
}

type FunctionName =
  | 'malloc'
  | 'free'
  | 'FPDF_InitLibrary'
  | 'FPDF_LoadMemDocument'
  | 'FPDF_GetLastError'
  | 'FPDF_CloseDocument'
  | 'FPDF_GetPageCount'
  | 'FPDF_GetPageSizeByIndexF'
  | 'FPDF_LoadPage'
  | 'FPDF_ClosePage'
  | 'FPDF_RenderPageBitmap'
  | 'FPDF_FFLDraw'
  | 'FPDFBitmap_CreateEx'
  | 'FPDFBitmap_FillRect'
  | 'FPDFBitmap_Destroy'
  | 'FPDFDOC_InitFormFillEnvironment'
  | 'FPDFDOC_ExitFormFillEnvironment'
  | 'FORM_OnAfterLoadPage'
  | 'FORM_OnBeforeClosePage'
  | 'FPDFPage_CountObjects'
  | 'FPDFPage_GetObject'
  | 'FPDFFormObj_CountObjects'
  | 'FPDFFormObj_GetObject'
  | 'FPDFPageObj_GetType'
  | 'FPDFImageObj_GetImagePixelSize';

type WasmFunction = (...args: number[]) => number;

/** An instance of PDFium, whose memory grows and never shrinks. */
interface Engine {
  call: Record<FunctionName, WasmFunction>;
  /** All of its memory. Growth detaches a view, so none is kept over a call. */
  memory(): Uint8Array;
  /** How often its memory could not grow. PDFium leaves out an image for that, and says nothing. */
  refusals: number;
  /** After a trap its memory may hold anything: nothing is called any more. */
  trapped: boolean;
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

// Types of it come with those of browsers alone.
const { WebAssembly } = globalThis as unknown as {
  WebAssembly: {
    compile(code: Uint8Array): Promise<object>;
    Instance: new (code: object, imports: object) => { exports: object };
  };
};

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

let compiled: Promise<object> | undefined;
let current: Promise<Engine> | undefined;

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

/** The engine that all documents share, a new one after a trap. */
async function currentEngine(): Promise<Engine> {
  current = current?.then((engine) => (engine.trapped ? startEngine() : engine), startEngine) ?? startEngine();
  return current.catch((cause) => {
    throw isOutOfMemory(cause) ? outOfMemory(cause) : cause;
  });
}

async function startEngine(): Promise<Engine> {
  const { PDFiumModule } = await import('@hyzyla/pdfium');
  compiled ??= readFile(createRequire(import.meta.url).resolve('@hyzyla/pdfium/pdfium.wasm')).then(WebAssembly.compile);
  const code = await compiled;
  const engine: Engine = { call: {} as Engine['call'], memory: () => pdfium.HEAPU8, refusals: 0, trapped: false };
  // Emscripten keeps it to print on failures, all of which reach us as well.
  const { error } = console;
  console.error = () => {};
  const pdfium = await PDFiumModule({
    instantiateWasm(imports: { env: Record<string, WasmFunction> }, done: (instance: object) => void) {
      const grow = imports.env.emscripten_resize_heap as WasmFunction;
      imports.env.emscripten_resize_heap = (bytes) => {
        const grown = grow(bytes);
        if (!grown) engine.refusals++;
        return grown;
      };
      const instance = new WebAssembly.Instance(code, imports);
      done(instance);
      return instance.exports;
    },
  }).finally(() => {
    console.error = error;
  });
  for (const [name, run] of Object.entries(pdfium.wasmExports)) {
    if (typeof run === 'function') engine.call[name as FunctionName] = watchForTraps(engine, run as WasmFunction);
  }
  engine.call.FPDF_InitLibrary();
  return engine;
}

function watchForTraps(engine: Engine, run: WasmFunction): WasmFunction {
  return (...args) => {
    if (engine.trapped) return 0;
    try {
      return run(...args);
    } catch (cause) {
      engine.trapped = true;
      throw cause;
    }
  };
}

/** What comes of work with PDFium: its result, unless memory was refused meanwhile, or its failure in the words of AppError. */
function attempt<T>(engine: Engine, failure: string, work: () => T): T {
  const { refusals } = engine;
  const [result, cause] = outcomeOf(work);
  if (cause instanceof AppError || isOfSystem(cause)) throw cause;
  if (engine.refusals > refusals || isOutOfMemory(cause)) throw outOfMemory(cause);
  if (cause !== undefined) throw new AppError('corrupt_file', failure, { cause });
  return result as T;
}

function outcomeOf<T>(work: () => T): [result: T | undefined, cause: unknown] {
  try {
    return [work(), undefined];
  } catch (cause) {
    return [undefined, cause];
  }
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

function withText<T>(engine: Engine, text: string, use: (at: number) => T): T {
  const data = Buffer.from(`${text}\0`);
  return withMemory(engine, data.length, (at) => {
    engine.memory().set(data, at);
    return use(at);
  });
}

function withMemory<T>(engine: Engine, bytes: number, use: (at: number) => T): T {
  const at = allocate(engine, bytes);
  try {
    return use(at);
  } finally {
    engine.call.free(at);
  }
}

function allocate(engine: Engine, bytes: number): number {
  const at = engine.call.malloc(bytes);
  if (at === 0) throw new Error(`out of memory: ${bytes} bytes`);
  return at;
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
  const { openWithPdfToImg } = await import('./pdf-to-img.ts');
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

/** A file that cannot be read from disk says nothing about what is in it. */
function isOfSystem(cause: unknown): boolean {
  return typeof cause === 'object' && cause !== null && 'syscall' in cause;
}

/** What an allocation throws that was refused, in PDFium's memory or in Node's. */
function isOutOfMemory(cause: unknown): boolean {
  return /allocation failed|out of memory/i.test(String((cause as Error)?.message));
}

function outOfMemory(cause: unknown): AppError {
  return new AppError('out_of_memory', 'the PDF needs more memory than was reserved', { retryable: true, cause });
}

/** Makes calls wait for those before them: a document may have to be opened again between two. */
function oneAfterTheOther() {
  let last: Promise<unknown> = Promise.resolve();
  return <T>(work: () => Promise<T>): Promise<T> => {
    const result = last.then(work, work);
    last = result;
    return result;
  };
}
