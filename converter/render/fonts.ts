import { createRequire } from 'node:module';
import path from 'node:path';

/**
 * The fonts that stand in for fonts which a PDF names and does not embed. They come from npm packages, so that a page
 * looks the same on every machine; none of the machine's own fonts is used. docs/fonts.md lists them with their licences.
 */
export interface FontFamily {
  name: string;
  /** Absolute paths of font files; null where the family lacks the style. */
  regular: string;
  bold: string | null;
  italic: string | null;
  boldItalic: string | null;
}

export type FamilyName = keyof typeof FAMILIES;

const resolve = createRequire(import.meta.url).resolve;

const FAMILIES = {
  // Each of the first five has the widths of the font in brackets.
  /** (Helvetica, Arial) Latin, Greek, Cyrillic, Hebrew. */
  Arimo: google('arimo', 'Arimo'),
  /** (Times) Latin, Greek, Cyrillic, Hebrew. */
  Tinos: google('tinos', 'Tinos'),
  /** (Courier) Latin, Greek, Cyrillic, Hebrew. */
  Cousine: google('cousine', 'Cousine'),
  /** (Calibri) */
  Carlito: google('carlito', 'Carlito'),
  /** (Cambria) */
  Caladea: google('caladea', 'Caladea'),
  'Noto Sans JP': noto('jp', 'NotoSansJP', 'otf'),
  'Noto Sans KR': noto('kr', 'NotoSansKR', 'otf'),
  'Noto Sans SC': noto('sc', 'NotoSansHans', 'otf'),
  'Noto Sans TC': noto('tc', 'NotoSansHant', 'otf'),
  'Noto Naskh Arabic': noto('arabic', 'NotoNaskhArabic', 'ttf'),
  'Noto Sans Hebrew': noto('hebrew', 'NotoSansHebrew', 'ttf'),
  'Noto Sans Math': single('noto-sans-math', 'NotoSansMath'),
  'Noto Sans Symbols 2': single('noto-sans-symbols-2', 'NotoSansSymbols2'),
} as const;

export function fontFamily(name: FamilyName): FontFamily {
  return { name, ...FAMILIES[name] };
}

export const FONT_FAMILIES: readonly FontFamily[] = Object.entries(FAMILIES).map(([name, files]) => ({
  name,
  ...files,
}));

function google(folder: string, name: string): Omit<FontFamily, 'name'> {
  const file = (style: string) => fileOf(`@expo-google-fonts/${folder}`, `../${folder}/${style}/${name}_${style}.ttf`);
  return {
    regular: file('400Regular'),
    bold: file('700Bold'),
    italic: file('400Regular_Italic'),
    boldItalic: file('700Bold_Italic'),
  };
}

function noto(folder: string, name: string, ending: string): Omit<FontFamily, 'name'> {
  const file = (style: string) => fileOf(`@embedpdf/fonts-${folder}`, `../fonts/${name}-${style}.${ending}`);
  return { regular: file('Regular'), bold: file('Bold'), italic: null, boldItalic: null };
}

function single(folder: string, name: string): Omit<FontFamily, 'name'> {
  const regular = fileOf(`@expo-google-fonts/${folder}`, `../${folder}/400Regular/${name}_400Regular.ttf`);
  return { regular, bold: null, italic: null, boldItalic: null };
}

function fileOf(packageName: string, fromMain: string): string {
  return path.join(path.dirname(resolve(packageName)), fromMain);
}
