import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import { init } from '@embedpdf/pdfium';
import { AppError, isOutOfMemory } from '../../../../runtime/errors.ts';
import { isOfSystem, outOfMemory } from '../engine.ts';
import { fontBytes, fontTable, KNOWN_FAMILIES, substituteFile } from './fonts.ts';

/** PDFium as WebAssembly: an instance, its memory, its fonts, and how failures of calls become errors. */

type FunctionName =
  | 'malloc'
  | 'free'
  | 'FPDF_InitLibrary'
  | 'FPDF_SetSystemFontInfo'
  | 'FPDF_AddInstalledFont'
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
  | 'FPDFPage_GetAnnotCount'
  | 'FPDFPage_GetAnnot'
  | 'FPDFPage_CloseAnnot'
  | 'FPDFPage_InsertObject'
  | 'FPDFAnnot_GetSubtype'
  | 'FPDFAnnot_GetFlags'
  | 'FPDFAnnot_GetRect'
  | 'FPDFAnnot_SetRect'
  | 'FPDFAnnot_GetStringValue'
  | 'FPDFAnnot_SetStringValue'
  | 'FPDFAnnot_GetFormFieldType'
  | 'FPDFAnnot_SetFormFieldFlags'
  | 'EPDFAnnot_GetTextAlignment'
  | 'EPDFAnnot_SetTextAlignment'
  | 'EPDFAnnot_SetFormFieldValue'
  | 'EPDFAnnot_SetDefaultAppearance'
  | 'EPDFPage_CreateFormField'
  | 'EPDFAnnot_HasAppearanceStream'
  | 'EPDFAnnot_GetColor'
  | 'EPDFAnnot_GetOpacity'
  | 'FPDFPageObj_CreateNewPath'
  | 'FPDFPageObj_NewTextObj'
  | 'FPDFPageObj_Transform'
  | 'FPDFPageObj_SetStrokeColor'
  | 'FPDFPageObj_SetStrokeWidth'
  | 'FPDFPageObj_SetFillColor'
  | 'FPDFPath_LineTo'
  | 'FPDFPath_SetDrawMode'
  | 'FPDFText_SetText'
  | 'FPDFPage_GetObject'
  | 'FPDFFormObj_CountObjects'
  | 'FPDFFormObj_GetObject'
  | 'FPDFPageObj_GetType'
  | 'FPDFPageObj_GetBounds'
  | 'FPDF_PageToDevice'
  | 'FPDFImageObj_GetBitmap'
  | 'FPDFImageObj_GetImagePixelSize'
  | 'FPDFImageObj_GetImageFilter'
  | 'FPDFImageObj_GetImageFilterCount'
  | 'FPDFImageObj_GetImageDataRaw'
  | 'EPDFDoc_GetPageObjectNumberByIndex';

type WasmFunction = (...args: number[]) => number;
/** The parts of Emscripten's module that are used; its own types come with those of browsers. */
interface Module {
  HEAPU8: Uint8Array;
  wasmExports: object;
  addFunction(run: (...args: number[]) => unknown, signature: string): number;
  setValue(at: number, value: number, type: 'i32'): void;
  UTF8ToString(at: number): string;
}

/** An instance of PDFium. Its memory grows, never shrinks, and goes with the instance. */
export interface Pdfium {
  call: Record<FunctionName, WasmFunction>;
  /** All of its memory. Growth detaches a view, so no view is kept over a call. */
  memory(): Uint8Array;
  /** How often its memory could not grow. PDFium leaves out an image for that and reports nothing. */
  refusals: number;
  /** A trap leaves memory in an unknown state: nothing is called after it. */
  trapped: boolean;
}

// The types of WebAssembly come only with those of browsers.
const { WebAssembly } = globalThis as unknown as {
  WebAssembly: {
    compile(code: Uint8Array): Promise<object>;
    Instance: new (code: object, imports: object) => { exports: object };
  };
};

const ANSI_CHARSET = 0;

let compiled: Promise<object> | undefined;

/**
 * Starts an instance with clean memory, in about 5 ms: each document has its own. All instances share the compiled code.
 * Throws AppError `out_of_memory` when there is no memory for it.
 */
export async function startPdfium(): Promise<Pdfium> {
  compiled ??= readFile(createRequire(import.meta.url).resolve('@embedpdf/pdfium/pdfium.wasm')).then(
    WebAssembly.compile,
  );
  const code = await compiled;
  const pdfium = { refusals: 0, trapped: false };
  const module = (await init({
    instantiateWasm(imports: object, done: (instance: object, code: object) => void) {
      const instance = new WebAssembly.Instance(code, imports);
      done(instance, code);
      return instance.exports;
    },
    print: () => undefined,
    printErr: (line: string) => {
      if (/^(Failed to grow|Cannot enlarge)/.test(line)) pdfium.refusals++;
    },
  } as Parameters<typeof init>[0]).then(
    ({ pdfium }) => pdfium,
    (cause) => {
      throw isOutOfMemory(cause) ? outOfMemory(cause) : cause;
    },
  )) as unknown as Module;
  const call = {} as Pdfium['call'];
  const instance: Pdfium = Object.assign(pdfium, { call, memory: () => module.HEAPU8 });
  for (const [name, run] of Object.entries(module.wasmExports)) {
    if (typeof run === 'function') call[name as FunctionName] = watchForTraps(instance, run as WasmFunction);
  }
  call.FPDF_InitLibrary();
  useOwnFonts(instance, module);
  return instance;
}

function watchForTraps(pdfium: Pdfium, run: WasmFunction): WasmFunction {
  return (...args) => {
    if (pdfium.trapped) return 0;
    try {
      return run(...args);
    } catch (cause) {
      pdfium.trapped = true;
      throw cause;
    }
  };
}

/** Makes PDFium ask fonts.ts for each font that a document does not embed (FPDF_SYSFONTINFO of fpdf_sysfontinfo.h). */
function useOwnFonts(pdfium: Pdfium, module: Module): void {
  const { call } = pdfium;
  const files: string[] = [];
  const fileOf = (handle: number) => fontBytes(files[handle - 1] ?? '');
  const mapFont = (_: number, weight: number, italic: number, charset: number, pitchFamily: number, face: number) => {
    const request = { face: module.UTF8ToString(face), weight, italic: italic !== 0, charset, pitchFamily };
    const file = substituteFile(request);
    const known = files.indexOf(file);
    return known < 0 ? files.push(file) : known + 1;
  };
  const getFontData = (_: number, handle: number, table: number, buffer: number, size: number) => {
    const font = fileOf(handle);
    const data = table === 0 ? font : fontTable(font, table >>> 0);
    if (data === undefined) return 0;
    if (buffer !== 0 && size >= data.length) module.HEAPU8.set(data, buffer);
    return data.length;
  };
  const enumFonts = (_: number, mapper: number) => {
    for (const name of KNOWN_FAMILIES) {
      withText(pdfium, name, (face) => call.FPDF_AddInstalledFont(mapper, face, ANSI_CHARSET));
    }
  };
  // PDFium keeps faces by this name, so each file has its own.
  const getFaceName = (_: number, handle: number, buffer: number, size: number) => {
    const name = Buffer.from(`${path.basename(files[handle - 1] ?? '')}\0`);
    if (buffer !== 0 && size >= name.length) module.HEAPU8.set(name, buffer);
    return name.length;
  };
  const functions = [
    0, // Release
    module.addFunction(enumFonts, 'vii'),
    module.addFunction(mapFont, 'iiiiiiii'),
    module.addFunction(() => 0, 'iii'), // GetFont
    module.addFunction(getFontData, 'iiiiii'),
    module.addFunction(getFaceName, 'iiiii'),
    module.addFunction(() => 0, 'iii'), // GetFontCharset
    module.addFunction(() => undefined, 'vii'), // DeleteFont
  ];
  const info = call.malloc(4 * (functions.length + 1));
  [1, ...functions].forEach((value, index) => {
    module.setValue(info + 4 * index, value, 'i32');
  });
  call.FPDF_SetSystemFontInfo(info);
}

/** The result of work with PDFium, or an AppError: refused memory, a file that PDFium cannot read. */
export function attempt<T>(pdfium: Pdfium, failure: string, work: () => T): T {
  const { refusals } = pdfium;
  const [result, cause] = outcomeOf(work);
  if (cause instanceof AppError || isOfSystem(cause)) throw cause;
  if (pdfium.refusals > refusals || isOutOfMemory(cause)) throw outOfMemory(cause);
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

export function withText<T>(pdfium: Pdfium, text: string, use: (at: number) => T): T {
  const data = Buffer.from(`${text}\0`);
  return withMemory(pdfium, data.length, (at) => {
    pdfium.memory().set(data, at);
    return use(at);
  });
}

export function withWideText<T>(pdfium: Pdfium, text: string, use: (at: number) => T): T {
  const data = Buffer.from(`${text}\0`, 'utf16le');
  return withMemory(pdfium, data.length, (at) => {
    pdfium.memory().set(data, at);
    return use(at);
  });
}

export function withMemory<T>(pdfium: Pdfium, bytes: number, use: (at: number) => T): T {
  const at = allocate(pdfium, bytes);
  try {
    return use(at);
  } finally {
    pdfium.call.free(at);
  }
}

export function allocate(pdfium: Pdfium, bytes: number): number {
  const at = pdfium.call.malloc(bytes);
  if (at === 0) throw new Error(`out of memory: ${bytes} bytes`);
  return at;
}
