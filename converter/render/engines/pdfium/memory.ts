import type { Pdfium } from './pdfium.ts';

/** Memory of an instance for the arguments and results of calls. */

export function withText<T>(pdfium: Pdfium, text: string, use: (at: number) => T): T {
  return withBytes(pdfium, Buffer.from(`${text}\0`), use);
}

export function withWideText<T>(pdfium: Pdfium, text: string, use: (at: number) => T): T {
  return withBytes(pdfium, Buffer.from(`${text}\0`, 'utf16le'), use);
}

function withBytes<T>(pdfium: Pdfium, data: Buffer, use: (at: number) => T): T {
  return withMemory(pdfium, data.length, (at) => {
    pdfium.memory().set(data, at);
    return use(at);
  });
}

/** The floats that a call writes to `at`; undefined when the call returns 0. */
export function readFloats(pdfium: Pdfium, count: number, call: (at: number) => number): number[] | undefined {
  return withMemory(pdfium, count * 4, (at) =>
    call(at) ? [...new Float32Array(pdfium.memory().buffer, at, count)] : undefined,
  );
}

/** The integers that a call writes to `at`; undefined when the call returns 0. */
export function readIntegers(pdfium: Pdfium, count: number, call: (at: number) => number): number[] | undefined {
  return withMemory(pdfium, count * 4, (at) =>
    call(at) ? [...new Int32Array(pdfium.memory().buffer, at, count)] : undefined,
  );
}

/** The bytes that a call writes to `at`: it returns how many. */
export function readBytes(pdfium: Pdfium, maxBytes: number, call: (at: number) => number): Buffer {
  return withMemory(pdfium, maxBytes, (at) => {
    const bytes = Math.min(maxBytes, Math.max(0, call(at)));
    return Buffer.from(pdfium.memory().subarray(at, at + bytes));
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
