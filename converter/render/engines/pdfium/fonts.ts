import { readFileSync } from 'node:fs';
import { type FamilyName, familyByName, fontFamily, plainName } from '../../fonts.ts';

/** Chooses the font of the service for each font that a PDF does not embed, and reads the tables that PDFium requests. */

/** Windows character sets, as PDFium passes them. */
const CHARSET_FAMILIES: Readonly<Record<number, FamilyName>> = {
  128: 'Noto Sans JP',
  129: 'Noto Sans KR',
  134: 'Noto Sans SC',
  136: 'Noto Sans TC',
  178: 'Noto Naskh Arabic',
};

/**
 * Families that documents often name and do not embed. PDFium keeps the style of a name such as `Calibri-Bold` only for
 * families that it believes to be installed; for others it uses the stem width in the document.
 */
export const KNOWN_FAMILIES: readonly string[] = [
  'Calibri, Calibri Light, Cambria, Candara, Consolas, Constantia, Corbel, Segoe UI, Aptos, Verdana, Tahoma',
  'Trebuchet MS, Comic Sans MS, Impact, Lucida Sans, Lucida Sans Unicode, Geneva, Century Gothic',
  'Franklin Gothic Book, Franklin Gothic Medium, Gill Sans, Gill Sans MT, Futura, Optima, Frutiger, Univers',
  'Myriad Pro, MyriadPro, Myriad, DIN, Helvetica Neue, HelveticaNeue, Swiss721BT, Open Sans, OpenSans, Roboto, Lato',
  'Montserrat, Source Sans Pro, Noto Sans, DejaVu Sans, Ubuntu, Liberation Sans, LiberationSans, Arial Narrow',
  'Arial Unicode MS, Microsoft Sans Serif, Bahnschrift, Georgia, Garamond, Palatino, Palatino Linotype',
  'Book Antiqua, Bookman Old Style, Century, Century Schoolbook, New Century Schoolbook, Minion Pro, MinionPro',
  'Adobe Garamond Pro, AGaramondPro, Bodoni MT, Baskerville Old Face, Goudy Old Style, Perpetua, Rockwell, Sylfaen',
  'Liberation Serif, LiberationSerif, DejaVu Serif, Noto Serif, Source Serif Pro, Liberation Mono, LiberationMono',
  'DejaVu Sans Mono, Lucida Console, Andale Mono, Menlo, Monaco, OCRB, Letter Gothic',
].flatMap((line) => line.split(', '));

/** A font with the letters of all scripts. PDFium uses one file for it, so that file needs Chinese letters. */
const ALL_SCRIPTS = /arialunicode/;

const FIXED_PITCH = 0x01;
const FAMILY_BITS = 0xf0;
const ROMAN = 0x10;
const BOLD_FROM = 600;

/** The font that PDFium requests: weight from 100 to 900, a Windows charset, pitch and family bits, and the name of the font. */
export interface FontRequest {
  face: string;
  weight: number;
  italic: boolean;
  charset: number;
  pitchFamily: number;
}

/** The file that stands in for a font. */
export function substituteFile(request: FontRequest): string {
  const name = plainName(request.face);
  const family = fontFamily(chooseFamily(request));
  const bold = request.weight >= BOLD_FROM || /bold|black|heavy|demi/.test(name);
  const italic = request.italic || /italic|oblique/.test(name);
  const styled = bold && italic ? family.boldItalic : bold ? family.bold : italic ? family.italic : null;
  return styled ?? (bold ? family.bold : null) ?? family.regular;
}

function chooseFamily({ face, charset, pitchFamily }: FontRequest): FamilyName {
  const byCharset = CHARSET_FAMILIES[charset];
  if (byCharset !== undefined) return byCharset;
  if (ALL_SCRIPTS.test(plainName(face))) return 'Noto Sans SC';
  const byName = familyByName(face);
  if (byName !== undefined) return byName;
  if (pitchFamily & FIXED_PITCH) return 'Cousine';
  return (pitchFamily & FAMILY_BITS) === ROMAN ? 'Tinos' : 'Arimo';
}

const loaded = new Map<string, Buffer>();

/** The bytes of a font file, read once in a process. */
export function fontBytes(file: string): Buffer {
  const known = loaded.get(file) ?? readFileSync(file);
  loaded.set(file, known);
  return known;
}

/** A table of an sfnt font (https://learn.microsoft.com/typography/opentype/spec/otff) by its four-letter tag; undefined without it. */
export function fontTable(font: Buffer, tag: number): Buffer | undefined {
  const tables = font.readUInt16BE(4);
  for (let entry = 12; entry < 12 + tables * 16; entry += 16) {
    if (font.readUInt32BE(entry) !== tag) continue;
    const offset = font.readUInt32BE(entry + 8);
    return font.subarray(offset, offset + font.readUInt32BE(entry + 12));
  }
  return undefined;
}
