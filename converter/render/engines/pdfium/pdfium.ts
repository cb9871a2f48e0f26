import type { Functions } from './functions.ts';

/** An instance of PDFium, which is WebAssembly. Its memory grows, never shrinks, and ends with the instance. */
export interface Pdfium {
  readonly call: Functions;
  /** All of its memory. Growth detaches a view, so no view is kept over a call. */
  memory(): Uint8Array;
  /** How often its memory could not grow. PDFium then leaves out an image and reports nothing. */
  refusals: number;
  /** A trap leaves memory in an unknown state, so no function is called after it. */
  trapped: boolean;
}

/** The parts of Emscripten's module that are used; its types need those of browsers. */
export interface Module {
  HEAPU8: Uint8Array;
  wasmExports: object;
  addFunction(run: (...args: number[]) => unknown, signature: string): number;
  UTF8ToString(at: number): string;
}
