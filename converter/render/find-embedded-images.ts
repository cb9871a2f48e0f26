import { createReadStream } from 'node:fs';

/** An image in a PDF, as its dictionary tells it. */
export interface EmbeddedImage {
  width: number;
  height: number;
  /** `wide`: 16 bits a channel, or four channels. */
  kind: 'bilevel' | 'wide' | 'jpx' | 'other';
}

const CHUNK = 4 * 2 ** 20;
/** No dictionary of an image is longer than this. */
const LONGEST = 4096;

/**
 * Finds the images of a PDF without opening it: a stream's dictionary stands in the clear, even where the file is
 * encrypted. One whose size stands elsewhere in the file is not found.
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
  for await (const chunk of createReadStream(file, { encoding: 'latin1', highWaterMark: CHUNK })) {
    text += chunk;
    const end = text.length - LONGEST;
    search(end);
    // What lies before the next match's dictionary stays, and is not searched again.
    const dropped = Math.max(0, end - LONGEST);
    text = text.slice(dropped);
    searched = Math.max(0, end - dropped);
  }
  search(text.length);
  return images;
}

/** The dictionary around a place in it: from the object's start, at most, to its stream. */
function readDictionary(text: string, at: number): EmbeddedImage | undefined {
  const from = Math.max(text.lastIndexOf('obj', at), at - LONGEST, 0);
  const to = text.indexOf('stream', at);
  const dictionary = text.slice(from, to < 0 || to > at + LONGEST ? at + LONGEST : to);
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
