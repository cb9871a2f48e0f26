import { inflateRawSync, inflateSync } from 'node:zlib';

/** Reads facts that PDFium does not report from the bytes of a PDF, without a full parser. */

/** At most this much of a stream is inflated; the rest counts as sound. */
const MAX_INFLATED = 16 * 2 ** 20;
const ZLIB_HEADER_BYTES = 2;
const FLUSHED = Buffer.from([0, 0, 0xff, 0xff]);
/** Operators that paint: fill, stroke, shading, XObjects, inline images, text. */
const PAINTING = /(^|[\s\])>])(f\*?|F|B\*?|b\*?|S|s|sh|Do|EI|Tj|TJ|'|")(?=\s|$)/;

const FLATE_FIRST = /\/Filter\s*\[?\s*\/FlateDecode\b/;
/** Keys of streams other than the content of a page. */
const WITH_A_KIND = /\/(Type|Subtype|N|Length[123]|FunctionType|ShadingType|PatternType|FormType)\b/;

interface RawStream {
  dictionary: string;
  data: Buffer;
}

/** True when a page has a UserUnit, or when that cannot be read. */
export function mayHaveUserUnit(file: Buffer): boolean {
  if (file.includes('/UserUnit')) return true;
  for (const { objects } of objectStreams(file))
    if (objects === undefined || objects.includes('/UserUnit')) return true;
  return false;
}

/** The UserUnit (ISO 32000) of the page with an object number: the scale of its units, 1 by default. */
export function userUnitOf(file: Buffer, pageObject: number): number {
  const unit = Number(/\/UserUnit\s+(\d*\.?\d+)/.exec(dictionaryOf(file, pageObject) ?? '')?.[1]);
  return unit > 0 ? unit : 1;
}

/** True when the content of a page paints, or when its streams cannot be read. */
export function mayPaint(file: Buffer, pageObject: number): boolean {
  if (file.includes('/Encrypt')) return true;
  return contentStreams(file, pageObject).some((stream) => {
    const content = stream && decoded(stream);
    return content === undefined || PAINTING.test(content.toString('latin1'));
  });
}

/** True when a content stream of a page is damaged, or when the streams cannot be found. */
export function hasDamagedContent(file: Buffer, pageObject: number): boolean {
  return contentStreams(file, pageObject).some(
    (stream) => stream === undefined || (FLATE_FIRST.test(stream.dictionary) && isDamaged(stream.data)),
  );
}

/** The content streams of a page; undefined for a stream that cannot be found. */
function contentStreams(file: Buffer, pageObject: number): (RawStream | undefined)[] {
  const dictionary = dictionaryOf(file, pageObject);
  if (dictionary === undefined || !/\/Type\s*\/Page\b/.test(dictionary)) return [undefined];
  const contents = /\/Contents\s*(\[[^\]]*\]|\d+\s+\d+\s+R)/.exec(dictionary)?.[1];
  if (contents === undefined) return /\/Contents\b/.test(dictionary) ? [undefined] : [];
  const numbers = [...contents.matchAll(/(\d+)\s+\d+\s+R/g)].map(([, number]) => Number(number));
  return numbers.map((number) => streamAt(file, startOf(file, number)));
}

/** True for kinds of compressed streams of which one is cut or garbled, so that a part of a page may be missing. */
export interface Damage {
  /** Streams that any page may use: fonts, forms, object streams. */
  shared: boolean;
  /** Streams that look like the content of a page. */
  content: boolean;
}

/** Searches a file for damaged streams, except images and the streams of encrypted files. */
export function findDamage(file: Buffer): Damage {
  const damage = { shared: false, content: false };
  if (file.includes('/Encrypt')) return damage;
  for (let at = file.indexOf('stream'); at !== -1; at = file.indexOf('stream', at + 6)) {
    if (file.toString('latin1', at - 3, at) === 'end') continue;
    const from = Math.max(file.lastIndexOf('obj', at), at - 4096, 0);
    const dictionary = file.toString('latin1', from, at);
    if (!FLATE_FIRST.test(dictionary) || /\/Subtype\s*\/Image\b/.test(dictionary)) continue;
    const data = dataAt(file, at, dictionary);
    if (isDamaged(data)) damage[WITH_A_KIND.test(dictionary) ? 'shared' : 'content'] = true;
    at += data.length;
  }
  return damage;
}

/** The text of an object's dictionary, from the file or from an object stream. */
function dictionaryOf(file: Buffer, number: number): string | undefined {
  const start = startOf(file, number);
  if (start !== undefined) {
    const end = file.indexOf('endobj', start);
    return file.toString('latin1', start, end === -1 ? start + 4096 : Math.min(end, start + 65_536));
  }
  return file.includes('/Encrypt') ? undefined : dictionaryInObjectStream(file, number);
}

function dictionaryInObjectStream(file: Buffer, number: number): string | undefined {
  for (const { dictionary, objects } of objectStreams(file)) {
    const [first, count] = ['First', 'N'].map((key) => Number(new RegExp(`/${key}\\s+(\\d+)`).exec(dictionary)?.[1]));
    if (!objects || !first || !count) continue;
    const index = objects.toString('latin1', 0, first).trim().split(/\s+/).map(Number);
    const entry = index.findIndex((value, position) => position % 2 === 0 && value === number);
    if (entry === -1) continue;
    const start = first + (index[entry + 1] ?? 0);
    const end = first + (index[entry + 3] ?? objects.length - first);
    return objects.toString('latin1', start, end);
  }
  return undefined;
}

/** The object streams of a file; `objects` is undefined for a stream that cannot be decoded. */
function* objectStreams(file: Buffer): Generator<{ dictionary: string; objects: Buffer | undefined }> {
  for (let at = file.indexOf('/ObjStm'); at !== -1; at = file.indexOf('/ObjStm', at + 7)) {
    const stream = streamAt(file, file.lastIndexOf('obj', at));
    if (stream !== undefined) yield { dictionary: stream.dictionary, objects: decoded(stream) };
  }
}

/** The position after `obj` of the newest version of an object; undefined for an object in an object stream. */
function startOf(file: Buffer, number: number): number | undefined {
  const head = `${number} 0 obj`;
  for (let at = file.lastIndexOf(head); at !== -1; at = at === 0 ? -1 : file.lastIndexOf(head, at - 1)) {
    const before = at === 0 ? 0x0a : (file[at - 1] ?? 0);
    if (before < 0x30 || before > 0x39) return at + head.length;
  }
  return undefined;
}

function streamAt(file: Buffer, start: number | undefined): RawStream | undefined {
  if (start === undefined || start < 0) return undefined;
  const at = file.indexOf('stream', start);
  const end = file.indexOf('endobj', start);
  if (at === -1 || (end !== -1 && end < at)) return undefined;
  const dictionary = file.toString('latin1', start, at);
  return { dictionary, data: dataAt(file, at, dictionary) };
}

/** The data after the keyword `stream` at `at`: of the length in its dictionary if that is right, else up to `endstream`. */
function dataAt(file: Buffer, at: number, dictionary: string): Buffer {
  const start = at + 'stream'.length + (file[at + 6] === 0x0d ? 2 : 1);
  const length = Number(/\/Length\s+(\d+)(?!\s+\d+\s+R)/.exec(dictionary)?.[1]);
  if (length >= 0 && file.toString('latin1', start + length, start + length + 12).includes('endstream')) {
    return file.subarray(start, start + length);
  }
  const end = file.indexOf('endstream', start);
  return file.subarray(start, end === -1 ? file.length : end);
}

/** The bytes of a stream that has no filter or only Flate; undefined for other streams and for damaged data. */
function decoded({ dictionary, data }: RawStream): Buffer | undefined {
  if (!/\/Filter\b/.test(dictionary)) return data;
  if (!/\/Filter\s*\[?\s*\/FlateDecode\s*[\]/>]/.test(dictionary) || /\/DecodeParms\b/.test(dictionary))
    return undefined;
  try {
    return inflateRawSync(data.subarray(ZLIB_HEADER_BYTES), { maxOutputLength: MAX_INFLATED });
  } catch {
    // The data is damaged or too large, so its content is unknown.
    return undefined;
  }
}

/** True when Flate data is cut or garbled. Some writers omit the checksum or end with a flush. */
export function isDamaged(data: Buffer): boolean {
  if (data.length <= ZLIB_HEADER_BYTES || data.subarray(-6).includes(FLUSHED)) return false;
  const refusal = refusalOf(() => inflateSync(data, { maxOutputLength: MAX_INFLATED }));
  if (refusal === undefined) return false;
  if (refusal === 'incorrect data check') return true;
  const withoutChecksum = data.subarray(ZLIB_HEADER_BYTES);
  return refusalOf(() => inflateRawSync(withoutChecksum, { maxOutputLength: MAX_INFLATED })) !== undefined;
}

/** The message with which zlib refuses damaged data; undefined for sound data and for other errors. */
function refusalOf(inflate: () => unknown): unknown {
  try {
    inflate();
    return undefined;
  } catch (error) {
    const { code, message } = Object(error);
    return code === 'Z_DATA_ERROR' || code === 'Z_BUF_ERROR' ? message : undefined;
  }
}
