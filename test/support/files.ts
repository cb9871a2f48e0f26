import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { degrees, PDFDocument, PDFName, PDFNumber, rgb } from 'pdf-lib';
import sharp from 'sharp';

export type Color = [red: number, green: number, blue: number];

/** Colours that stay distinct after JPEG compression, one for each page and corner. */
export const RED: Color = [220, 30, 30];
export const GREEN: Color = [30, 160, 60];
export const BLUE: Color = [30, 60, 200];
export const YELLOW: Color = [240, 220, 40];

export interface PageSpec {
  /** Points. */
  width?: number;
  height?: number;
  color: Color;
  text?: string;
  /** Clockwise, a multiple of 90. */
  rotate?: number;
  userUnit?: number;
}

/** A PDF whose pages are filled with a colour; the top left tenth of each page, before rotation, is black. */
export async function makePdf(pages: PageSpec[]): Promise<Buffer> {
  // Without a date, so that the same pages give the same bytes.
  const document = await PDFDocument.create({ updateMetadata: false });
  for (const { width = 200, height = 300, color, text, rotate = 0, userUnit } of pages) {
    const page = document.addPage([width, height]);
    const [red = 0, green = 0, blue = 0] = color.map((value) => value / 255);
    page.drawRectangle({ x: 0, y: 0, width, height, color: rgb(red, green, blue) });
    page.drawRectangle({ x: 0, y: height * 0.9, width: width / 10, height: height / 10, color: rgb(0, 0, 0) });
    if (text !== undefined) page.drawText(text, { x: width / 8, y: height / 2, size: 20, color: rgb(1, 1, 1) });
    page.setRotation(degrees(rotate));
    if (userUnit !== undefined) page.node.set(PDFName.of('UserUnit'), PDFNumber.of(userUnit));
  }
  return Buffer.from(await document.save());
}

export interface ImageSpec {
  width?: number;
  height?: number;
  color?: Color;
  format?: 'png' | 'jpeg';
  progressive?: boolean;
  palette?: boolean;
  /** `cmyk` has no profile; `p3` has one. */
  space?: 'srgb' | 'cmyk' | 'p3' | 'grey';
  /** 0 to 1. */
  alpha?: number;
}

/** A PNG or JPEG of one colour, as a viewer should show it: other colour spaces are converted to. */
export function makeImage(spec: ImageSpec = {}): Promise<Buffer> {
  const {
    width = 40,
    height = 30,
    color = RED,
    format = 'png',
    progressive = false,
    palette = false,
    space = 'srgb',
    alpha,
  } = spec;
  const [r, g, b] = color;
  const background = { r, g, b, ...(alpha === undefined ? {} : { alpha }) };
  let image = sharp({ create: { width, height, channels: alpha === undefined ? 3 : 4, background } });
  if (space === 'p3') image = image.withIccProfile('p3');
  if (space === 'cmyk') image = image.toColourspace('cmyk');
  if (space === 'grey') image = image.toColourspace('b-w');
  const encoded =
    format === 'png'
      ? image.png({ progressive, palette })
      : image.jpeg({ progressive, quality: 95, chromaSubsampling: '4:4:4' });
  return encoded.toBuffer();
}

/** Red, green and blue of one pixel of a PNG, and alpha if it has any; grey counts as all three. */
export async function pixelAt(png: Buffer, x: number, y: number): Promise<number[]> {
  return [...(await sharp(png).extract({ left: x, top: y, width: 1, height: 1 }).raw().toBuffer())];
}

/** A PDF with one page of 200x300 points, all in `color`, that opens with `password` alone (RC4, 128 bits, revision 3). */
export function encryptedPdf(password: string, color: Color = RED): Buffer {
  const id = md5('an id');
  const permissions = Buffer.from([0xfc, 0xff, 0xff, 0xff]);
  const owner = rounds(times(51, md5, pad('the owner')), pad(password));
  const key = times(51, md5, Buffer.concat([pad(password), owner, permissions, id]));
  const user = Buffer.concat([rounds(key, md5(Buffer.concat([pad(''), id]))), Buffer.alloc(16)]);
  const content = Buffer.from(`${color.map((value) => value / 255).join(' ')} rg 0 0 200 300 re f`);
  const sealed = rc4(md5(Buffer.concat([key, Buffer.from([4, 0, 0, 0, 0])])), content);
  const hex = (bytes: Buffer) => `<${bytes.toString('hex')}>`;
  return writePdf(
    [
      '<< /Type /Catalog /Pages 2 0 R >>',
      '<< /Type /Pages /Kids [3 0 R] /Count 1 >>',
      '<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 300] /Contents 4 0 R >>',
      `<< /Length ${sealed.length} >>\nstream\n${sealed.toString('latin1')}\nendstream`,
      `<< /Filter /Standard /V 2 /R 3 /Length 128 /P -4 /O ${hex(owner)} /U ${hex(user)} >>`,
    ],
    `/Encrypt 5 0 R /ID [${hex(id)} ${hex(id)}]`,
  );
}

/** A well-formed PDF without any page. */
export function emptyPdf(): Buffer {
  return writePdf(['<< /Type /Catalog /Pages 2 0 R >>', '<< /Type /Pages /Kids [] /Count 0 >>'], '');
}

/** A PDF of the given objects, numbered from 1; the first is the catalog. */
export function writePdf(objects: string[], trailer: string): Buffer {
  let body = '%PDF-1.7\n';
  const offsets = objects.map((object, index) => {
    const offset = body.length;
    body += `${index + 1} 0 obj\n${object}\nendobj\n`;
    return `${String(offset).padStart(10, '0')} 00000 n \n`;
  });
  const size = objects.length + 1;
  const table = `xref\n0 ${size}\n0000000000 65535 f \n${offsets.join('')}`;
  return Buffer.from(
    `${body}${table}trailer\n<< /Size ${size} /Root 1 0 R ${trailer} >>\nstartxref\n${body.length}\n%%EOF\n`,
    'latin1',
  );
}

const PADDING = Buffer.from('28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a', 'hex');

function pad(password: string): Buffer {
  return Buffer.concat([Buffer.from(password, 'latin1'), PADDING]).subarray(0, 32);
}

function md5(data: Buffer | string): Buffer {
  return createHash('md5').update(data).digest();
}

function times<T>(count: number, step: (value: T) => T, value: T): T {
  return count === 0 ? value : times(count - 1, step, step(value));
}

/** RC4 twenty times, with the key changed each time, as revision 3 of the standard security handler wants it. */
function rounds(key: Buffer, data: Buffer): Buffer {
  return Array.from({ length: 20 }, (_, round) => round).reduce(
    (sealed, round) =>
      rc4(
        key.map((byte) => byte ^ round),
        sealed,
      ),
    data,
  );
}

function rc4(key: Uint8Array, data: Buffer): Buffer {
  const state = Uint8Array.from({ length: 256 }, (_, index) => index);
  const at = (index: number) => state[index & 255] as number;
  const swap = (i: number, j: number) => {
    const kept = at(i);
    state[i & 255] = at(j);
    state[j & 255] = kept;
  };
  for (let i = 0, j = 0; i < 256; i++) {
    j = (j + at(i) + (key[i % key.length] as number)) & 255;
    swap(i, j);
  }
  let j = 0;
  return data.map((byte, index) => {
    const i = index + 1;
    j = (j + at(i)) & 255;
    swap(i, j);
    return byte ^ at(at(i) + at(j));
  }) as Buffer;
}

export function pngChunk(type: string, ...data: Buffer[]): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), ...data]);
  const framed = Buffer.alloc(body.length + 8);
  framed.writeUInt32BE(body.length - 4, 0);
  framed.set(body, 4);
  framed.writeUInt32BE(crc32(body), body.length + 4);
  return framed;
}
