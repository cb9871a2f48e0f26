import { createRequire } from 'node:module';
import path from 'node:path';

/**
 * The fonts that stand in for fonts which a PDF names and does not embed. They come from npm packages, so that a page
 * looks the same on every machine; installed fonts are not used. docs/fonts.md lists them with their licences.
 */
export interface FontFamily {
  name: FamilyName;
  /** Absolute paths of font files; null for a style that the family lacks. */
  regular: string;
  bold: string | null;
  italic: string | null;
  boldItalic: string | null;
}

type FontFiles = Omit<FontFamily, 'name'>;

export type FamilyName = keyof typeof FAMILIES;

const resolve = createRequire(import.meta.url).resolve;

const FAMILIES = {
  // Each of the first five has the widths of the font in parentheses.
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

/** Parts of font names, in lower case and without blanks and dashes. The first match counts. */
const NAME_PATTERNS: readonly [RegExp, FamilyName][] = [
  [/cambriamath|stixmath|latinmodernmath|asanamath/, 'Noto Sans Math'],
  [/segoeuisymbol|emoji|dingbat|wingding|webding/, 'Noto Sans Symbols 2'],
  [
    /gothic(?!franklin)(mb|bbb|std|pr)|ms.?p?gothic|ms.?p?mincho|mincho|meiryo|hiragino|kozuka|koz(min|go)|heisei|ryumin|yup?goth|yumin|notosans(cjk)?jp/,
    'Noto Sans JP',
  ],
  [
    /mingliu|jhenghei|dfkai|biaukai|pingfangtc|hkscs|msung|mhei|adobeming|(song|hei)titc|notosans(cjk)?(tc|hant)/,
    'Noto Sans TC',
  ],
  [
    /simsun|simhei|simkai|simfang|fangsong|kaiti|yahei|songti|heiti|nsimsun|dengxian|youyuan|stsong|adobesong|stheiti|stkaiti|pingfang|notosans(cjk)?(sc|hans)/,
    'Noto Sans SC',
  ],
  [
    /batang|gulim|dotum|malgun|gungsuh|nanum|my(eo|u)ngjo|hygothic|applegothic|gothicneo|notosans(cjk)?kr/,
    'Noto Sans KR',
  ],
  [/arabic|naskh|amiri|scheherazade/, 'Noto Naskh Arabic'],
  [/courier|consolas|mono|typewriter|lucidacons|menlo|monaco|cousine|fixed/, 'Cousine'],
  [/calibri|carlito|candara/, 'Carlito'],
  [/cambria|caladea/, 'Caladea'],
  [/sansserif|arial|helvetica|verdana|tahoma|trebuchet|segoe|gothic|sans|frutiger|univers|futura|gill|myriad/, 'Arimo'],
  [
    /times|georgia|garamond|palatino|bookman|century|schoolbook|minion|constantia|bodoni|caslon|baskerville|didot|charter|utopia|tinos|roman|serif|goudy|perpetua|rockwell|cmr\d/,
    'Tinos',
  ],
];

/** Chinese names of common fonts (Song, Hei, Kai, Fang) in GBK, read as Latin-1. */
const GBK_NAMES = /\xcb\xce|\xba\xda|\xbf\xac|\xb7\xc2/;

/** The family that stands in for a font with this name; undefined for an unknown name. */
export function familyByName(name: string): FamilyName | undefined {
  if (GBK_NAMES.test(name)) return 'Noto Sans SC';
  const plain = plainName(name);
  return NAME_PATTERNS.find(([pattern]) => pattern.test(plain))?.[1];
}

/** A font name in lower case without blanks and punctuation. */
export function plainName(name: string): string {
  return name.toLowerCase().replace(/[^a-z0-9]/g, '');
}

export function fontFamily(name: FamilyName): FontFamily {
  return { name, ...FAMILIES[name] };
}

export function isFamilyName(name: string): name is FamilyName {
  return Object.hasOwn(FAMILIES, name);
}

export const FONT_FAMILIES: readonly FontFamily[] = Object.keys(FAMILIES).filter(isFamilyName).map(fontFamily);

function google(folder: string, name: string): FontFiles {
  const file = (style: string) => fileOf(`@expo-google-fonts/${folder}`, `../${folder}/${style}/${name}_${style}.ttf`);
  return {
    regular: file('400Regular'),
    bold: file('700Bold'),
    italic: file('400Regular_Italic'),
    boldItalic: file('700Bold_Italic'),
  };
}

function noto(folder: string, name: string, ending: string): FontFiles {
  const file = (style: string) => fileOf(`@embedpdf/fonts-${folder}`, `../fonts/${name}-${style}.${ending}`);
  return { regular: file('Regular'), bold: file('Bold'), italic: null, boldItalic: null };
}

function single(folder: string, name: string): FontFiles {
  const regular = fileOf(`@expo-google-fonts/${folder}`, `../${folder}/400Regular/${name}_400Regular.ttf`);
  return { regular, bold: null, italic: null, boldItalic: null };
}

function fileOf(packageName: string, fromMain: string): string {
  return path.join(path.dirname(resolve(packageName)), fromMain);
}
