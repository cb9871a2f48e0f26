import { readFileSync } from 'node:fs';
import { fontTable } from '../../converter/render/engines/pdfium/fonts.ts';
import { streamObject } from './pdf.ts';

/** A TrueType font as it is embedded in a PDF, to compare with text in a font that is not embedded. */
export interface TrueType {
  file: Buffer;
  glyphOf(letter: string): number;
  /** In thousandths of the font's size. */
  widthOf(letter: string): number;
}

export function readTrueType(path: string): TrueType {
  const file = readFileSync(path);
  const table = (tag: string): Buffer => {
    const found = fontTable(file, Buffer.from(tag).readUInt32BE());
    if (found === undefined) throw new Error(`${path} has no table ${tag}`);
    return found;
  };
  const [cmap, hmtx] = [segmentsOf(table('cmap')), table('hmtx')];
  const [unitsPerEm, metrics] = [table('head').readUInt16BE(18), table('hhea').readUInt16BE(34)];
  const glyphOf = (letter: string) => {
    const glyph = cmap(letter.codePointAt(0) ?? 0);
    if (glyph === 0) throw new Error(`${path} has no ${letter}`);
    return glyph;
  };
  const widthOf = (letter: string) =>
    Math.round((hmtx.readUInt16BE(4 * Math.min(glyphOf(letter), metrics - 1)) * 1000) / unitsPerEm);
  return { file, glyphOf, widthOf };
}

/** The glyph of a character by the first subtable of format 4 (https://learn.microsoft.com/typography/opentype/spec/cmap). */
function segmentsOf(cmap: Buffer): (code: number) => number {
  const offsets = Array.from({ length: cmap.readUInt16BE(2) }, (_, index) => cmap.readUInt32BE(8 + index * 8));
  const start = offsets.find((offset) => cmap.readUInt16BE(offset) === 4);
  if (start === undefined) throw new Error('the font has no cmap of format 4');
  const bytes = cmap.readUInt16BE(start + 6);
  const [ends, starts, deltas, ranges] = [14, 16 + bytes, 16 + bytes * 2, 16 + bytes * 3].map((at) => start + at);
  return (code) => {
    for (let at = 0; at < bytes; at += 2) {
      if (cmap.readUInt16BE((ends ?? 0) + at) < code) continue;
      const first = cmap.readUInt16BE((starts ?? 0) + at);
      if (first > code) return 0;
      const delta = cmap.readUInt16BE((deltas ?? 0) + at);
      const range = cmap.readUInt16BE((ranges ?? 0) + at);
      if (range === 0) return (code + delta) & 0xffff;
      const glyph = cmap.readUInt16BE((ranges ?? 0) + at + range + (code - first) * 2);
      return glyph === 0 ? 0 : (glyph + delta) & 0xffff;
    }
    return 0;
  };
}

/** The four objects of an embedded font; `first` is the number of the first of them, which is the font. */
export function embeddedFont({ file, glyphOf, widthOf }: TrueType, letters: string, first: number): string[] {
  const widths = [...new Set(letters)].map((letter) => `${glyphOf(letter)} [${widthOf(letter)}]`).join(' ');
  return [
    `<< /Type /Font /Subtype /Type0 /BaseFont /AAAAAA+Reference /Encoding /Identity-H /DescendantFonts [${first + 1} 0 R] >>`,
    `<< /Type /Font /Subtype /CIDFontType2 /BaseFont /AAAAAA+Reference /CIDToGIDMap /Identity /W [${widths}] ` +
      `/CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> /FontDescriptor ${first + 2} 0 R >>`,
    `<< /Type /FontDescriptor /FontName /AAAAAA+Reference /Flags 4 /FontBBox [0 -300 1000 1000] /ItalicAngle 0 ` +
      `/Ascent 900 /Descent -200 /CapHeight 700 /StemV 80 /FontFile2 ${first + 3} 0 R >>`,
    streamObject(`/Length1 ${file.length}`, file),
  ];
}

/** A text as glyphs of the embedded font, as a string of a content stream. */
export function glyphString({ glyphOf }: TrueType, text: string): string {
  return `<${[...text].map((letter) => glyphOf(letter).toString(16).padStart(4, '0')).join('')}>`;
}
