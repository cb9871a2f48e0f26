import { crc32 } from 'node:zlib';
import { createRandom, type Random } from '../../bench/random.ts';
import type { Seed } from './seeds.ts';

/** A file that was made from a seed by damage. The same seeds, seed number and index give the same bytes. */
export interface Mutant {
  index: number;
  /** The name of the file that it was made from. */
  name: string;
  bytes: Buffer;
}

const MAX_MUTATIONS = 4;
const MAX_CHUNK_BYTES = 512;
/** Duplication must not make files that are only large. */
const MAX_BYTES = 1_000_000;
/** Mixes the seed number with the index, so that runs with neighbouring seed numbers share no mutant. */
const SEED_STRIDE = 1_000_003;

const EXTREME_NUMBERS = [
  ...['-1', '0', '1', '2', '255', '65535', '65536', '2147483647', '2147483648', '-2147483648', '4294967295'],
  ...['4294967296', '9223372036854775807', '99999999999999999999', '1e308', '0.00000001', '-0', '1.7976931e39', 'NaN'],
];
const EXTREME_BYTES = [
  '00',
  '01',
  '7f',
  '80',
  'ff',
  '0000',
  '7fff',
  '8000',
  'ffff',
  '00000000',
  '7fffffff',
  '80000000',
];

const PDF_TOKENS = [
  ...[
    'obj',
    'endobj',
    'stream\n',
    '\nendstream',
    'xref',
    'trailer',
    'startxref',
    '%%EOF',
    '<<',
    '>>',
    '[',
    ']',
    '(',
    ')',
  ],
  ...[
    'null',
    'true',
    '1 0 R',
    '2 0 R',
    '3 0 R',
    '4 0 R',
    '5 0 R',
    '99 0 R',
    '/Kids [2 0 R]',
    '/Parent 3 0 R',
    '/Prev 0',
  ],
  ...[
    '/Type /Page',
    '/Type /Pages',
    '/Type /ObjStm',
    '/Type /XRef',
    '/Subtype /Form',
    '/Subtype /Image',
    '/Subtype /Type3',
  ],
  ...['/Count 2147483647', '/Length 4294967295', '/N 1000000', '/First 99999', '/W [8 8 8]', '/Index [0 2147483647]'],
  ...['/Filter /FlateDecode', '/Filter /DCTDecode', '/Filter /JPXDecode', '/Filter /JBIG2Decode', '/Filter /LZWDecode'],
  ...['/Filter /CCITTFaxDecode', '/Filter /RunLengthDecode', '/Filter /ASCII85Decode', '/Filter [/Crypt /FlateDecode]'],
  ...['/DecodeParms << /Predictor 15 /Columns 2147483647 /Colors 32 >>', '/DecodeParms << /K -1 /Columns 99999 >>'],
  ...[
    '/Width 65535',
    '/Height 65535',
    '/BitsPerComponent 16',
    '/MediaBox [0 0 1e9 1e9]',
    '/MediaBox [9 9 9 9]',
    '/Rotate 91',
  ],
  ...[
    '/ColorSpace [/Indexed /DeviceRGB 255 5 0 R]',
    '/ColorSpace [/ICCBased 4 0 R]',
    '/ColorSpace /Pattern',
    '/SMask 5 0 R',
  ],
  ...[
    '/Encrypt 5 0 R',
    '/UserUnit 1e30',
    '/AcroForm << /Fields [3 0 R] >>',
    '/Annots [3 0 R 5 0 R]',
    '/FunctionType 4',
  ],
  ...[
    ' BT ',
    ' ET ',
    ' q ',
    ' Q ',
    ' Do ',
    ' sh ',
    ' W n ',
    ' BI ',
    ' ID ',
    ' EI ',
    ' 0 0 0 0 0 0 cm ',
    ' 1e9 w ',
    ' d0 ',
  ],
].map((token) => Buffer.from(token));
const PNG_TOKENS = [
  'IHDR',
  'PLTE',
  'IDAT',
  'IEND',
  'tRNS',
  'gAMA',
  'iCCP',
  'cHRM',
  'eXIf',
  'pHYs',
  'acTL',
  'fcTL',
  'CgBI',
].map((token) => Buffer.from(token));
const JPEG_TOKENS = [
  'ffd8',
  'ffc0',
  'ffc1',
  'ffc2',
  'ffc4',
  'ffc9',
  'ffda',
  'ffdb',
  'ffdd',
  'ffd0',
  'ffd9',
  'ffe1',
  'ffe2',
  'ffee',
].map((token) => Buffer.from(token, 'hex'));

/** Makes the mutant number `index` of the run `seedNumber`. */
export function mutate(seeds: readonly Seed[], seedNumber: number, index: number): Mutant {
  const random = createRandom(seedNumber * SEED_STRIDE + index);
  const seed = random.pick(seeds);
  const relatives = seeds.filter(({ kind }) => kind === seed.kind);
  let bytes: Buffer = Buffer.from(seed.bytes);
  for (let left = random.wholeNumber(1, MAX_MUTATIONS); left > 0; left--) {
    const next = random.pick(MUTATIONS)(bytes, random, { seed, other: random.pick(relatives) });
    if (next.length <= MAX_BYTES) bytes = next;
  }
  if (seed.kind === 'png' && random.next() < 0.7) repairChecksums(bytes);
  return { index, name: seed.name, bytes };
}

type Mutation = (bytes: Buffer, random: Random, of: { seed: Seed; other: Seed }) => Buffer;

const MUTATIONS: readonly Mutation[] = [
  flipBits,
  flipBits,
  changeBytes,
  truncate,
  splice,
  duplicateChunk,
  removeChunk,
  insertToken,
  insertToken,
  replaceNumber,
  replaceNumber,
  writeExtreme,
];

function flipBits(bytes: Buffer, random: Random): Buffer {
  for (let left = random.wholeNumber(1, 16); left > 0 && bytes.length > 0; left--) {
    const at = positionIn(bytes, random);
    bytes[at] = (bytes[at] ?? 0) ^ (1 << random.wholeNumber(0, 7));
  }
  return bytes;
}

function changeBytes(bytes: Buffer, random: Random): Buffer {
  const at = positionIn(bytes, random);
  const end = Math.min(bytes.length, at + random.wholeNumber(1, 32));
  for (let position = at; position < end; position++) bytes[position] = random.wholeNumber(0, 255);
  return bytes;
}

function truncate(bytes: Buffer, random: Random): Buffer {
  return bytes.subarray(0, random.wholeNumber(1, bytes.length));
}

/** The beginning of one file and the end of another. */
function splice(bytes: Buffer, random: Random, { other }: { other: Seed }): Buffer {
  return Buffer.concat([
    bytes.subarray(0, positionIn(bytes, random)),
    other.bytes.subarray(positionIn(other.bytes, random)),
  ]);
}

function duplicateChunk(bytes: Buffer, random: Random): Buffer {
  const times = random.pick([1, 1, 2, 20]);
  return insert(bytes, positionIn(bytes, random), ...Array<Buffer>(times).fill(chunkOf(bytes, random)));
}

function removeChunk(bytes: Buffer, random: Random): Buffer {
  const at = positionIn(bytes, random);
  return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + random.wholeNumber(1, MAX_CHUNK_BYTES))]);
}

function insertToken(bytes: Buffer, random: Random, { seed }: { seed: Seed }): Buffer {
  const token = random.pick({ pdf: PDF_TOKENS, png: PNG_TOKENS, jpeg: JPEG_TOKENS }[seed.kind]);
  const at = positionIn(bytes, random);
  if (random.next() < 0.5) return insert(bytes, at, token);
  return Buffer.concat([bytes.subarray(0, at), token, bytes.subarray(at + token.length)]);
}

/** Replaces a number that is written in digits. */
function replaceNumber(bytes: Buffer, random: Random): Buffer {
  const numbers = [...bytes.toString('latin1').matchAll(/\d+/g)];
  if (numbers.length === 0) return writeExtreme(bytes, random);
  const { 0: digits = '', index } = random.pick(numbers);
  const value = Buffer.from(random.pick(EXTREME_NUMBERS));
  return Buffer.concat([bytes.subarray(0, index), value, bytes.subarray(index + digits.length)]);
}

/** Overwrites bytes with the smallest and largest values of the usual integers. */
function writeExtreme(bytes: Buffer, random: Random): Buffer {
  Buffer.from(random.pick(EXTREME_BYTES), 'hex').copy(bytes, positionIn(bytes, random));
  return bytes;
}

function positionIn(bytes: Buffer, random: Random): number {
  return random.wholeNumber(0, Math.max(0, bytes.length - 1));
}

function chunkOf(bytes: Buffer, random: Random): Buffer {
  const at = positionIn(bytes, random);
  return Buffer.from(bytes.subarray(at, at + random.wholeNumber(1, MAX_CHUNK_BYTES)));
}

function insert(bytes: Buffer, at: number, ...chunks: Buffer[]): Buffer {
  return Buffer.concat([bytes.subarray(0, at), ...chunks, bytes.subarray(at)]);
}

/** Readers refuse a PNG chunk with a wrong checksum before they look at its content. */
function repairChecksums(bytes: Buffer): void {
  for (let at = 8; at + 12 <= bytes.length; ) {
    const end = at + 8 + bytes.readUInt32BE(at);
    if (end + 4 > bytes.length) return;
    bytes.writeUInt32BE(crc32(bytes.subarray(at + 4, end)), end);
    at = end + 4;
  }
}
