/** A message between the two halves of pdf.js. */
interface Message {
  action?: string;
  data?: unknown;
}

interface Image {
  width: number;
  height: number;
  kind: number;
  data: Uint8Array<ArrayBuffer>;
  dataLen?: number;
}

type Listener = (event: { data: unknown }) => void;

const RGB = 2;
const RGBA = 3;
const OPAQUE = 0xff000000;

/**
 * A port through which the parsing half of pdf.js talks to its drawing half, both in this thread. On the way it makes RGBA of
 * RGB images: drawing RGB, pdf.js starts each band of 16 rows over from the first, 2 s for a page of A4 at 300 dpi.
 */
export function createPort() {
  const listeners = new Set<Listener>();
  const delivered: Image[] = [];
  return {
    /** `transfer` is null where an image could not be decoded. */
    postMessage(message: Message, transfer: ArrayBuffer[] | null = null): void {
      const image = imageOf(message);
      const data = structuredClone(message, { transfer: image?.kind === RGB ? widen(image) : (transfer ?? []) });
      const copy = data.action === 'obj' && imageOf(data);
      if (copy) delivered.push(copy);
      queueMicrotask(() => {
        for (const listener of listeners) listener({ data });
      });
    },
    addEventListener(_: string, listener: Listener, options?: { signal?: AbortSignal }): void {
      listeners.add(listener);
      options?.signal?.addEventListener('abort', () => listeners.delete(listener));
    },
    removeEventListener(_: string, listener: Listener): void {
      listeners.delete(listener);
    },
    terminate(): void {
      listeners.clear();
    },
    /** Takes the pixels out of the images of pages drawn so far, which pdf.js would keep; those pages cannot be drawn again. */
    dropImages(): void {
      // Without a length pdf.js decodes the image anew for another page, rather than copy it from this one.
      for (const image of delivered.splice(0)) Object.assign(image, { data: new Uint8Array(), dataLen: 0 });
    },
  };
}

/** The image in a message: `[id, page, 'Image', image]` for one page, `[id, 'Image', image]` for several. */
function imageOf({ action, data }: Message): Image | null {
  if ((action !== 'obj' && action !== 'commonobj') || !Array.isArray(data) || data.at(-2) !== 'Image') return null;
  return data.at(-1)?.data ? data.at(-1) : null;
}

/** Makes RGBA of an RGB image, and gives what is to be transferred of it. */
function widen(image: Image): ArrayBuffer[] {
  const { width, height, data } = image;
  const pixels = new Uint32Array(width * height);
  for (let pixel = 0, at = 0; pixel < pixels.length; pixel++, at += 3) {
    pixels[pixel] = (data[at] as number) | ((data[at + 1] as number) << 8) | ((data[at + 2] as number) << 16) | OPAQUE;
  }
  Object.assign(image, { kind: RGBA, data: new Uint8Array(pixels.buffer) });
  return [pixels.buffer];
}
