import { createReadStream } from 'node:fs';

/** An image in a PDF, as its dictionary describes it. */
export interface EmbeddedImage {
  width: number;
  height: number;
  /** `wide`: 16 bits a channel, or four channels. */
  kind: 'bilevel' | 'wide' | 'jpx' | 'other';
}

const CHUNK_BYTES = 4 * 2 ** 20;
/** A dictionary of an image is shorter than this. */
const MAX_DICTIONARY = 4096;

/**
 * Finds the images of a PDF without opening it: the dictionary of a stream is plain text, even in an encrypted file. An
 * image whose dictionary refers to its size elsewhere is not found.
 */
export async function findImages(file: string): Promise<EmbeddedImage[]> {
  const images: EmbeddedImage[] = [];
  let text = '';
  let searched = 0;
  const search = (end: number) => {
    for (const { index } of text.matchAll(/\/Subtype\s*\/Image\b/g)) {
      if (index < searched || index >= end) continue;
      const image = readDictionary(text, index);
      if (image !== undefined) images.push(image);
    }
  };
  for await (const chunk of createReadStream(file, { encoding: 'latin1', highWaterMark: CHUNK_BYTES })) {
    text += chunk;
    const end = text.length - MAX_DICTIONARY;
    search(end);
    // The dictionary of the next match may begin before `end`, so that part is kept, and not searched again.
    const dropped = Math.max(0, end - MAX_DICTIONARY);
    text = text.slice(dropped);
    searched = Math.max(0, end - dropped);
  }
  search(text.length);
  return images;
}

/** Reads the dictionary around a position: from the start of the object to its stream. */
function readDictionary(text: string, at: number): EmbeddedImage | undefined {
  const from = Math.max(text.lastIndexOf('obj', at), at - MAX_DICTIONARY, 0);
  const to = text.indexOf('stream', at);
  const dictionary = text.slice(from, to < 0 || to > at + MAX_DICTIONARY ? at + MAX_DICTIONARY : to);
  const number = (name: string) =>
    Number(new RegExp(`/${name}\\s+(\\d{1,9})(?!\\d|\\s+\\d+\\s+R)`).exec(dictionary)?.[1]);
  const [width, height, bits] = [number('Width'), number('Height'), number('BitsPerComponent')];
  if (Number.isNaN(width + height)) return undefined;
  if (/\/JPXDecode\b/.test(dictionary)) return { width, height, kind: 'jpx' };
  const bilevel = bits === 1 || /\/ImageMask\s+true|\/(CCITTFax|JBIG2)Decode\b/.test(dictionary);
  return {
    width,
    height,
    kind: bilevel ? 'bilevel' : bits === 16 || /\/DeviceCMYK\b/.test(dictionary) ? 'wide' : 'other',
  };
}
