import path from 'node:path';
import { fontBytes, fontTable, KNOWN_FAMILIES, substituteFile } from './fonts.ts';
import { withText } from './memory.ts';
import type { Module, Pdfium } from './pdfium.ts';

const ANSI_CHARSET = 0;
const INTERFACE_VERSION = 1;

/** Makes PDFium ask fonts.ts for each font that a document does not embed (FPDF_SYSFONTINFO of fpdf_sysfontinfo.h). */
export function installSystemFonts(pdfium: Pdfium, module: Module): void {
  const fonts = new SystemFonts(pdfium, module);
  const callbacks = [
    0, // Release
    module.addFunction(fonts.enumerate, 'vii'),
    module.addFunction(fonts.map, 'iiiiiiii'),
    module.addFunction(() => 0, 'iii'), // GetFont
    module.addFunction(fonts.getData, 'iiiiii'),
    module.addFunction(fonts.getFaceName, 'iiiii'),
    module.addFunction(() => 0, 'iii'), // GetFontCharset
    module.addFunction(() => undefined, 'vii'), // DeleteFont
  ];
  const info = Int32Array.of(INTERFACE_VERSION, ...callbacks);
  // PDFium keeps the address for the life of the instance.
  const at = pdfium.call.malloc(info.byteLength);
  pdfium.memory().set(new Uint8Array(info.buffer), at);
  pdfium.call.FPDF_SetSystemFontInfo(at);
}

/** The callbacks of one instance. A handle of PDFium is the position of a file in `files`, counted from 1. */
class SystemFonts {
  readonly #pdfium: Pdfium;
  readonly #module: Module;
  readonly #files: string[] = [];

  constructor(pdfium: Pdfium, module: Module) {
    this.#pdfium = pdfium;
    this.#module = module;
  }

  readonly enumerate = (_: number, mapper: number): void => {
    for (const name of KNOWN_FAMILIES) {
      withText(this.#pdfium, name, (face) => this.#pdfium.call.FPDF_AddInstalledFont(mapper, face, ANSI_CHARSET));
    }
  };

  readonly map = (
    _: number,
    weight: number,
    italic: number,
    charset: number,
    pitchFamily: number,
    face: number,
  ): number => {
    const name = this.#module.UTF8ToString(face);
    const file = substituteFile({ face: name, weight, italic: italic !== 0, charset, pitchFamily });
    const known = this.#files.indexOf(file);
    return known < 0 ? this.#files.push(file) : known + 1;
  };

  readonly getData = (_: number, handle: number, table: number, buffer: number, size: number): number => {
    const font = fontBytes(this.#fileOf(handle));
    const data = table === 0 ? font : fontTable(font, table >>> 0);
    return data === undefined ? 0 : this.#copy(data, buffer, size);
  };

  /** PDFium caches faces by this name, so each file has a different one. */
  readonly getFaceName = (_: number, handle: number, buffer: number, size: number): number =>
    this.#copy(Buffer.from(`${path.basename(this.#fileOf(handle))}\0`), buffer, size);

  #fileOf(handle: number): string {
    return this.#files[handle - 1] ?? '';
  }

  /** Copies data to a buffer that holds it. Without such a buffer PDFium only asks for the length. */
  #copy(data: Buffer, buffer: number, size: number): number {
    if (buffer !== 0 && size >= data.length) this.#pdfium.memory().set(data, buffer);
    return data.length;
  }
}
