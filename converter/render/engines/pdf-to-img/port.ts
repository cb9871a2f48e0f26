/** The parts of a message between the two halves of pdf.js that matter here. */
interface Message {
  stream?: number;
  reason?: unknown;
  /** `[id, page, 'Image', image]`, or `[id, 'Image', image]` for an image of several pages. */
  data?: unknown;
}

interface Image {
  width: number;
  height: number;
  kind: number;
  data: Uint8Array;
  dataLen: number;
}

type Listener = (event: { data: unknown }) => void;

interface Problems {
  /** A half of pdf.js failed on a message, so the work that waits for it may never end. */
  onFailure(cause: unknown): void;
  /** The content of a page ended with an error. pdf.js draws what came before, as if that were all. */
  onOmission(cause: unknown): void;
}

const RGB = 2;
const RGBA = 3;
const OPAQUE = 0xff000000;

/** The kind of a message that ends a stream with an error. */
const STREAM_ERROR = 5;

/**
 * A port through which the half of pdf.js that parses talks to the half that draws, both in this thread, as through the
 * one that pdf.js makes itself. This one reports the errors that pdf.js would keep to itself, and gives it RGBA images.
 */
export function createPort({ onFailure, onOmission }: Problems) {
  const listeners = new Set<Listener>();
  function deliver(data: Message): void {
    if (data.stream === STREAM_ERROR) onOmission(data.reason);
    for (const listener of listeners) {
      try {
        listener({ data });
      } catch (cause) {
        onFailure(cause);
      }
    }
  }
  return {
    postMessage(message: Message, transfer: ArrayBuffer[] | null = null): void {
      const data = structuredClone(message, { transfer: transfer ?? [] });
      const image = Array.isArray(data.data) && data.data.at(-2) === 'Image' ? data.data.at(-1) : null;
      if (image?.kind === RGB) Object.assign(image, widen(image));
      queueMicrotask(() => deliver(data));
    },
    addEventListener(_type: string, listener: Listener, options?: { signal?: AbortSignal }): void {
      listeners.add(listener);
      options?.signal?.addEventListener('abort', () => listeners.delete(listener));
    },
    removeEventListener(_type: string, listener: Listener): void {
      listeners.delete(listener);
    },
    terminate(): void {
      listeners.clear();
    },
  };
}

/**
 * Makes RGBA of an RGB image. pdf.js 6.2 draws RGB in bands of 16 rows and starts each band over from the first row, which
 * takes 1 s for a page of A4 at 300 dpi and four times as long at twice the resolution.
 */
function widen({ width, height, data }: Image): Pick<Image, 'kind' | 'data' | 'dataLen'> {
  const pixels = new Uint32Array(width * height);
  let at = 0;
  for (let pixel = 0; pixel < pixels.length; pixel++) {
    pixels[pixel] = (data[at++] ?? 0) | ((data[at++] ?? 0) << 8) | ((data[at++] ?? 0) << 16) | OPAQUE;
  }
  return { kind: RGBA, data: new Uint8Array(pixels.buffer), dataLen: pixels.byteLength };
}
