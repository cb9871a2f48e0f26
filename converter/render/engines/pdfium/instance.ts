import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { init } from '@embedpdf/pdfium';
import { AppError, isOutOfMemory } from '../../../../runtime/errors.ts';
import { isFileSystemError, outOfMemory } from '../engine.ts';
import { bindFunctions, type WasmFunction } from './functions.ts';
import type { Module, Pdfium } from './pdfium.ts';
import { installSystemFonts } from './system-fonts.ts';

/** Node has this global, but only the types of browsers declare it. */
declare const WebAssembly: {
  compile(code: Uint8Array): Promise<object>;
  Instance: new (code: object, imports: object) => { exports: object };
};

let compiled: Promise<object> | undefined;

/**
 * Starts an instance with clean memory, in about 5 ms: each document has its own. All instances share the compiled code.
 * Throws AppError `out_of_memory` when there is no memory for it.
 */
export async function startPdfium(): Promise<Pdfium> {
  compiled ??= readFile(createRequire(import.meta.url).resolve('@embedpdf/pdfium/pdfium.wasm')).then(
    WebAssembly.compile,
  );
  const state = { refusals: 0, trapped: false };
  const module = await instantiate(await compiled, () => {
    state.refusals++;
  });
  const pdfium: Pdfium = Object.assign(state, {
    call: bindFunctions(module.wasmExports, (run) => watchForTraps(state, run)),
    memory: () => module.HEAPU8,
  });
  pdfium.call.FPDF_InitLibrary();
  installSystemFonts(pdfium, module);
  return pdfium;
}

async function instantiate(code: object, onRefusal: () => void): Promise<Module> {
  const options = {
    instantiateWasm(imports: object, done: (instance: object, code: object) => void) {
      const instance = new WebAssembly.Instance(code, imports);
      done(instance, code);
      return instance.exports;
    },
    print: () => undefined,
    printErr: (line: string) => {
      if (/^(Failed to grow|Cannot enlarge)/.test(line)) onRefusal();
    },
  };
  try {
    const { pdfium } = await init(options);
    if (!isModule(pdfium)) throw new Error('PDFium has another module than expected');
    return pdfium;
  } catch (cause) {
    throw isOutOfMemory(cause) ? outOfMemory(cause) : cause;
  }
}

function isModule(value: object): value is Module {
  return 'HEAPU8' in value && ArrayBuffer.isView(value.HEAPU8) && 'wasmExports' in value;
}

function watchForTraps(state: { trapped: boolean }, run: WasmFunction): WasmFunction {
  return (...args) => {
    if (state.trapped) return 0;
    try {
      return run(...args);
    } catch (cause) {
      state.trapped = true;
      throw cause;
    }
  };
}

/**
 * Returns the result of work with PDFium. Throws AppError `out_of_memory` when an instance could not get memory, and
 * `corrupt_file` with the message `failure` for other errors of PDFium.
 */
export function runChecked<T>(pdfium: Pdfium, failure: string, work: () => T): T {
  const { refusals } = pdfium;
  const wasRefused = () => pdfium.refusals > refusals;
  try {
    const result = work();
    if (!wasRefused()) return result;
  } catch (cause) {
    if (cause instanceof AppError || isFileSystemError(cause)) throw cause;
    if (wasRefused() || isOutOfMemory(cause)) throw outOfMemory(cause);
    throw new AppError('corrupt_file', failure, { cause });
  }
  throw outOfMemory(undefined);
}
