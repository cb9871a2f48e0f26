import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { promisify } from 'node:util';
import type { DrawnPage } from '../../../../../converter/render/engines/engine.ts';
import { fontBytes, fontTable, substituteFile } from '../../../../../converter/render/engines/pdfium/fonts.ts';
import { type FamilyName, FONT_FAMILIES, fontFamily } from '../../../../../converter/render/fonts.ts';
import { embeddedFont, glyphString, readTrueType, type TrueType } from '../../../../support/font.ts';
import { drawPdf, inkOf, onePagePdf, pixelsOf, streamObject, withFile } from '../../../../support/pdf.ts';

const run = promisify(execFile);
const STYLES = ['regular', 'bold', 'italic', 'boldItalic'] as const;
type Style = (typeof STYLES)[number];

const FORCE_BOLD = 1 << 18;
const ITALIC = 1 << 6;
const NONSYMBOLIC = 1 << 5;
const SERIF = 1 << 1;
const FIXED_PITCH = 1;

function fontFile(family: FamilyName, style: Style = 'regular'): TrueType {
  const file = fontFamily(family)[style];
  if (file === null) throw new Error(`${family} has no ${style}`);
  return readTrueType(file);
}

/** A page with one line of text for each font; the first object of each is the font. */
function lines(texts: string[], fontObjects: string[][]): Buffer {
  const starts = fontObjects.map((_, index) => 5 + fontObjects.slice(0, index).flat().length);
  const fonts = starts.map((start, index) => `/F${index} ${start} 0 R`).join(' ');
  const shown = texts.map((text, index) => `BT /F${index} 20 Tf 10 ${index * 30 + 10} Td ${text} Tj ET`);
  return onePagePdf({
    width: 320,
    height: texts.length * 30,
    content: shown.join('\n'),
    resources: `/Font << ${fonts} >>`,
    objects: fontObjects.flat(),
  });
}

/** The numbers of the objects that follow a font, for fonts that come in groups of `size` objects. */
const objectAfter = (index: number, size: number, offset: number) => `${5 + index * size + offset} 0 R`;

function differingPixels(one: DrawnPage, other: DrawnPage): number {
  const others = pixelsOf(other);
  return pixelsOf(one).filter((pixel, index) => pixel !== others[index]).length;
}

describe('a font that is not embedded looks as its substitute', () => {
  const text = 'Quartz glyph job vex 0123';
  const suffixes = { regular: '', bold: '-Bold', italic: '-Italic', boldItalic: '-BoldItalic' };

  function named(name: string, style: Style, index: number, font: TrueType, flags: number): string[] {
    const widths = Array.from({ length: 95 }, (_, code) => font.widthOf(String.fromCharCode(32 + code)));
    const styleFlags = (style.startsWith('bold') ? FORCE_BOLD : 0) | (/italic/i.test(style) ? ITALIC : 0);
    return [
      `<< /Type /Font /Subtype /TrueType /BaseFont /${name} /Encoding /WinAnsiEncoding /FirstChar 32 /LastChar 126 ` +
        `/Widths [${widths.join(' ')}] /FontDescriptor ${objectAfter(index, 2, 1)} >>`,
      `<< /Type /FontDescriptor /FontName /${name} /Flags ${NONSYMBOLIC | flags | styleFlags} /FontBBox [-500 -300 1200 1000] ` +
        `/ItalicAngle ${/italic/i.test(style) ? -12 : 0} /Ascent 900 /Descent -200 /CapHeight 700 ` +
        `/StemV ${style.startsWith('bold') ? 140 : 80} >>`,
    ];
  }

  test.each([
    ['Calibri', 'Carlito', 0],
    ['ABCDEF+Calibri', 'Carlito', 0],
    ['Cambria', 'Caladea', SERIF],
    ['Verdana', 'Arimo', 0],
    ['Tahoma', 'Arimo', 0],
    ['SegoeUI', 'Arimo', 0],
    ['Arial', 'Arimo', 0],
    ['Georgia', 'Tinos', SERIF],
    ['Garamond', 'Tinos', SERIF],
    ['TimesNewRoman', 'Tinos', SERIF],
    ['Consolas', 'Cousine', FIXED_PITCH],
    ['CourierNew', 'Cousine', FIXED_PITCH],
    ['Unheard', 'Arimo', 0],
    ['UnheardOf', 'Tinos', SERIF],
    ['Unheard', 'Cousine', FIXED_PITCH],
  ] as const)('%s as %s, in four styles', async (name, family, flags) => {
    const files = STYLES.map((style) => fontFile(family, style));
    for (const separator of ['-', ',']) {
      const substituted = STYLES.map((style, index) =>
        named(`${name}${suffixes[style].replace('-', separator)}`, style, index, files[index] as TrueType, flags),
      );
      const embedded = files.map((font, index) => embeddedFont(font, text, 5 + index * 4));
      const drawn = await drawPdf(
        lines(
          files.map(() => `(${text})`),
          substituted,
        ),
      );
      const expected = await drawPdf(
        lines(
          files.map((font) => glyphString(font, text)),
          embedded,
        ),
      );
      expect(differingPixels(drawn, expected)).toBe(0);
      expect(inkOf(drawn)).toBeGreaterThan(1000);
    }
  });

  /** Glyph names of the Adobe Glyph List, as /Differences give them. */
  const ALPHABETS: [string, string, string][] = [
    ['Czech', 'ČčďĚěňŘřšťůž', 'Ccaron ccaron dcaron Ecaron ecaron ncaron Rcaron rcaron scaron tcaron uring zcaron'],
    ['Polish', 'ĄąćęłńóśŹźż', 'Aogonek aogonek cacute eogonek lslash nacute oacute sacute Zacute zacute zdotaccent'],
    ['Turkish', 'ĞğİıŞşçöü', 'Gbreve gbreve Idotaccent dotlessi Scedilla scedilla ccedilla odieresis udieresis'],
    ['Greek', 'ΑβγΔεθλΩπς', 'Alpha beta gamma uni0394 epsilon theta lambda uni03A9 pi sigma1'],
    [
      'Cyrillic',
      'АБбвгдеяё',
      'afii10017 afii10018 afii10066 afii10067 afii10068 afii10069 afii10070 afii10097 afii10071',
    ],
    ['Hebrew', 'אבגדהו', 'afii57664 afii57665 afii57666 afii57667 afii57668 afii57669'],
  ];
  const FONTS = [
    ['Helvetica', 'Type1', 'Arimo'],
    ['Times-Roman', 'Type1', 'Tinos'],
    ['Courier', 'Type1', 'Cousine'],
    ['ArialMT', 'TrueType', 'Arimo'],
    ['TimesNewRomanPSMT', 'TrueType', 'Tinos'],
    ['Verdana', 'TrueType', 'Arimo'],
  ] as const;

  test.each(ALPHABETS)('%s letters by /Differences', async (_, letters, names) => {
    const drawn = await drawPdf(
      lines(
        FONTS.map(() => `(${[...letters].map((_, index) => String.fromCharCode(65 + index)).join('')})`),
        FONTS.map(([base, subtype, family]) => {
          const widths = [...letters].map((letter) => fontFile(family).widthOf(letter)).join(' ');
          const encoding = `<< /BaseEncoding /WinAnsiEncoding /Differences [65 /${names.replaceAll(' ', ' /')}] >>`;
          return [
            `<< /Type /Font /Subtype /${subtype} /BaseFont /${base} /Encoding ${encoding} /FirstChar 65 ` +
              `/LastChar ${64 + [...letters].length} /Widths [${widths}] >>`,
          ];
        }),
      ),
    );
    const fonts = FONTS.map(([, , family]) => fontFile(family));
    const expected = await drawPdf(
      lines(
        fonts.map((font) => glyphString(font, letters)),
        fonts.map((font, index) => embeddedFont(font, letters, 5 + index * 4)),
      ),
    );
    expect(differingPixels(drawn, expected)).toBe(0);
  });
});

const utf16Hex = (text: string) => Buffer.from(text, 'utf16le').swap16().toString('hex');

/** A Type0 font that is not embedded; `extra` is added to the font, `numbers` are those of its other two objects. */
function compositeFont(
  base: string,
  encoding: string,
  ordering: string,
  numbers: string[],
  extra = '',
  more = '/DW 1000',
) {
  const subtype = encoding === 'Identity-H' ? 'CIDFontType2' : 'CIDFontType0';
  return [
    `<< /Type /Font /Subtype /Type0 /BaseFont /${base} /Encoding /${encoding} /DescendantFonts [${numbers[0]}] ${extra} >>`,
    `<< /Type /Font /Subtype /${subtype} /BaseFont /${base} /FontDescriptor ${numbers[1]} ${more} ` +
      `/CIDSystemInfo << /Registry (Adobe) /Ordering (${ordering}) /Supplement 0 >> >>`,
    `<< /Type /FontDescriptor /FontName /${base} /Flags 4 /FontBBox [0 -200 1000 900] /ItalicAngle 0 ` +
      `/Ascent 800 /Descent -200 /CapHeight 700 /StemV 80 >>`,
  ];
}

describe('Chinese, Japanese and Korean', () => {
  /** One line in a font with a predefined CMap. */
  const inCMap = (base: string, cmap: string, ordering: string, hex: string) =>
    drawPdf(lines([`<${hex}>`], [compositeFont(base, cmap, ordering, ['6 0 R', '7 0 R'])]));

  test.each([
    [
      ...(['Japan1', 'MS-Mincho', '90ms-RKSJ-H', '93fa967b8cea82cc8365835883678abf8e9a82a982c8'] as const),
      ...(['HeiseiKakuGo-W5', 'UniJIS-UCS2-H', '日本語のテスト漢字かな'] as const),
    ],
    ['Japan1', 'KozMinPro-Regular', 'EUC-H', 'c6fccbdcb8ec', 'Ryumin-Light', 'UniJIS-UTF16-H', '日本語'],
    ['GB1', 'SimSun', 'GBK-EUC-H', 'bcf2cce5d6d0cec4b2e2cad4', 'STSong-Light', 'UniGB-UCS2-H', '简体中文测试'],
    ['CNS1', 'MingLiU', 'ETen-B5-H', 'c163c5e9a4a4a4e5b4fab8d5', 'MSung-Light', 'UniCNS-UCS2-H', '繁體中文測試'],
    ['Korea1', 'Batang', 'KSCms-UHC-H', 'c7d1b1b9beeebdc3c7e8', 'HYSMyeongJo-Medium', 'UniKS-UCS2-H', '한국어시험'],
  ] as const)(
    '%s: %s by %s shows the same letters as by Unicode',
    async (ordering, base, cmap, hex, other, unicode, text) => {
      const drawn = await inCMap(base, cmap, ordering, hex);
      expect(inkOf(drawn)).toBeGreaterThan(80 * text.length);
      expect(differingPixels(drawn, await inCMap(other, unicode, ordering, utf16Hex(text)))).toBe(0);
      const letters = await Promise.all(
        [...new Set(text)].map((letter) => inCMap(other, unicode, ordering, utf16Hex(letter))),
      );
      expect(new Set(letters.map((letter) => pixelsOf(letter).join())).size).toBe(letters.length);
    },
  );
});

describe('Identity-H with ToUnicode', () => {
  const codesOf = (text: string) => new Map([...new Set(text)].map((letter, index) => [letter, 36 + index]));
  const hexOf = (code: number | undefined) => (code ?? 0).toString(16).padStart(4, '0');

  function toUnicode(codes: Map<string, number>): string {
    const pairs = [...codes].map(([letter, code]) => `<${hexOf(code)}> <${utf16Hex(letter)}>`);
    return streamObject(
      '',
      '/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /X def /CMapType 2 def ' +
        `1 begincodespacerange <0000> <FFFF> endcodespacerange ${pairs.length} beginbfchar\n${pairs.join('\n')}\nendbfchar ` +
        'endcmap end end',
    );
  }

  function mapped(base: string, text: string, widthOf: (letter: string) => number): Promise<DrawnPage> {
    const codes = codesOf(text);
    const widths = [...codes].map(([letter, code]) => `${code} [${widthOf(letter)}]`).join(' ');
    const font = compositeFont(
      base,
      'Identity-H',
      'Identity',
      ['6 0 R', '7 0 R'],
      '/ToUnicode 8 0 R',
      `/W [${widths}]`,
    );
    const hex = [...text].map((letter) => hexOf(codes.get(letter))).join('');
    return drawPdf(lines([`<${hex}>`], [[...font, toUnicode(codes)]]));
  }

  test.each([
    ['TimesNewRomanPSMT', 'Tinos', 'Grüße, letters 12'],
    ['CourierNewPSMT', 'Cousine', 'Grüße, letters'],
    ['ArialMT', 'Arimo', 'Привет Ελληνικά'],
    ['ArialMT', 'Arimo', 'םולש'],
    ['Calibri', 'Carlito', 'žluťoučký kůň'],
    ['Unheard', 'Arimo', 'Привет, letters'],
  ] as const)('%s looks as %s: %s', async (base, family, text) => {
    const font = fontFile(family);
    const expected = await drawPdf(lines([glyphString(font, text)], [embeddedFont(font, text, 5)]));
    expect(differingPixels(await mapped(base, text, font.widthOf), expected)).toBe(0);
  });

  test('an Arabic font has Arabic letters', async () => {
    const letters = await Promise.all([...'مرحبا'].map((letter) => mapped('TraditionalArabic', letter, () => 500)));
    expect(letters.every((letter) => inkOf(letter) > 10)).toBe(true);
    expect(new Set(letters.map((letter) => pixelsOf(letter).join())).size).toBe(5);
  });
});

describe('fonts of the machine', () => {
  const FOLDERS = ['/usr/share/fonts', '/usr/local/share/fonts', '/usr/share/fontconfig'].filter(existsSync);
  const isRoot = process.getuid?.() === 0;
  const names = ['Helvetica', 'Calibri', 'Verdana', 'Georgia', 'DejaVuSans', 'LiberationSans', 'NotoSans', 'Unheard'];
  const script = `
    import { createHash } from 'node:crypto';
    const [module, name, file] = process.argv.slice(1);
    const document = await (await import(module))[name](file, null);
    const { data } = await document.render(1, 1);
    console.log(createHash('sha256').update(data).digest('hex'));
    await document.close();`;
  const engines = [
    ['pdfium', 'openWithPdfium'],
    ['pdf-to-img', 'openWithPdfToImg'],
  ] as const;

  /** Hashes the pixels in a process that finds no fonts on the machine: root hides their folders, others their settings. */
  async function hashWithoutFonts(command: string[]): Promise<string> {
    const env = { PATH: process.env.PATH, HOME: '/nonexistent', FONTCONFIG_PATH: '/nonexistent' };
    const hide = FOLDERS.map((folder) => `mount -t tmpfs none ${folder}`).join(' && ');
    const [file, ...args] = isRoot
      ? ['unshare', '-m', 'sh', '-c', `${hide || ':'} && exec "$@"`, 'sh', ...command]
      : command;
    return (await run(file ?? '', args, { env })).stdout;
  }

  test.each(engines)('do not change the pixels of %s', async (folder, open) => {
    const fonts = names.map((name) => [
      `<< /Type /Font /Subtype /TrueType /BaseFont /${name} /Encoding /WinAnsiEncoding >>`,
    ]);
    const japanese = compositeFont('MS-Mincho', '90ms-RKSJ-H', 'Japan1', [objectAfter(8, 1, 1), objectAfter(8, 1, 2)]);
    const pdf = lines([...names.map(() => '(Hamburgefonstiv)'), '<93fa967b8cea>'], [...fonts, japanese]);
    const module = new URL(`../../../../../converter/render/engines/${folder}/document.ts`, import.meta.url).href;
    await withFile(pdf, async (file) => {
      const command = [process.execPath, '--input-type=module', '-e', script, module, open, file];
      const [node = '', ...args] = command;
      const [plain, without] = await Promise.all([run(node, args), hashWithoutFonts(command)]);
      expect(without).toMatch(/^[0-9a-f]{64}\n$/);
      expect(without).toBe(plain.stdout);
    });
  });

  test('are not among the loaded files', () => {
    for (const family of FONT_FAMILIES) {
      for (const style of STYLES) expect(family[style] ?? 'node_modules').toContain('node_modules');
    }
  });
});

describe('the substitute', () => {
  const request = { face: 'Unheard', weight: 400, italic: false, charset: 0, pitchFamily: 0 };

  test.each([
    ['a weight', { weight: 700 }, 'Arimo', 'bold'],
    ['a slant', { italic: true }, 'Arimo', 'italic'],
    ['a style in the name', { face: 'Unheard-BoldOblique' }, 'Arimo', 'boldItalic'],
    ['a fixed pitch', { pitchFamily: 1 }, 'Cousine', 'regular'],
    ['serifs', { pitchFamily: 0x10 }, 'Tinos', 'regular'],
    ['the Japanese charset', { charset: 128, weight: 700, italic: true }, 'Noto Sans JP', 'bold'],
    ['the charset before the name', { face: 'Arial', charset: 134 }, 'Noto Sans SC', 'regular'],
    ['a sans serif name with serif bits', { face: 'Verdana', pitchFamily: 0x10 }, 'Arimo', 'regular'],
    ['a mathematical font', { face: 'CambriaMath' }, 'Noto Sans Math', 'regular'],
    ['a symbolic name', { face: 'Wingdings3', charset: 2 }, 'Noto Sans Symbols 2', 'regular'],
    ['the symbol charset not at all', { charset: 2 }, 'Arimo', 'regular'],
  ] as const)('is chosen by %s', (_, changes, family, style) => {
    expect(substituteFile({ ...request, ...changes })).toBe(fontFamily(family)[style]);
  });

  test('has its tables by their tags', () => {
    const font = fontBytes(fontFamily('Arimo').regular);
    expect(fontTable(font, Buffer.from('head').readUInt32BE())?.readUInt32BE(12)).toBe(0x5f0f3cf5);
    expect(fontTable(font, Buffer.from('none').readUInt32BE())).toBeUndefined();
    expect(
      createHash('md5')
        .update(fontBytes(fontFamily('Arimo').regular))
        .digest(),
    ).toEqual(createHash('md5').update(font).digest());
  });
});
