import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { AppError, isOutOfMemory } from '../../../../errors.ts';
import { isOfSystem, outOfMemory } from '../engine.ts';

/** PDFium as WebAssembly: its instance, its memory, and what it means when a call fails. */

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
export interface Engine {
  call: Record<FunctionName, WasmFunction>;
  /** All of its memory. Growth detaches a view, so none is kept over a call. */
  memory(): Uint8Array;
  /** How often its memory could not grow. PDFium leaves out an image for that, and says nothing. */
  refusals: number;
  /** After a trap its memory may hold anything: nothing is called any more. */
  trapped: boolean;
}

// Types of it come with those of browsers alone.
const { WebAssembly } = globalThis as unknown as {
  WebAssembly: {
    compile(code: Uint8Array): Promise<object>;
    Instance: new (code: object, imports: object) => { exports: object };
  };
};

let compiled: Promise<object> | undefined;
let current: Promise<Engine> | undefined;

/** The engine that all documents share, a new one after a trap. */
export async function currentEngine(): Promise<Engine> {
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
export function attempt<T>(engine: Engine, failure: string, work: () => T): T {
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

export function withText<T>(engine: Engine, text: string, use: (at: number) => T): T {
  const data = Buffer.from(`${text}\0`);
  return withMemory(engine, data.length, (at) => {
    engine.memory().set(data, at);
    return use(at);
  });
}

export function withMemory<T>(engine: Engine, bytes: number, use: (at: number) => T): T {
  const at = allocate(engine, bytes);
  try {
    return use(at);
  } finally {
    engine.call.free(at);
  }
}

export function allocate(engine: Engine, bytes: number): number {
  const at = engine.call.malloc(bytes);
  if (at === 0) throw new Error(`out of memory: ${bytes} bytes`);
  return at;
}
