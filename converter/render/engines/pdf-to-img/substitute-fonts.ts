import { type FamilyName, FONT_FAMILIES, familyByName, isFamilyName } from '../../fonts.ts';

/** The fonts of @napi-rs/canvas, of which a process has one set. */
export interface FontRegistry {
  removeAll(): unknown;
  registerFromPath(file: string, name: string): unknown;
}

/** The generic family that pdf.js names last. */
const GENERIC_FAMILIES: readonly [RegExp, FamilyName][] = [
  [/monospace$/, 'Cousine'],
  [/sans-serif$/, 'Arimo'],
  [/serif$/, 'Tinos'],
];

let registered = false;

/** Gives the canvas library the fonts of the service in place of the machine's. It maps them: all need 3 MB of memory. */
export function registerFonts(fonts: FontRegistry): void {
  if (registered) return;
  fonts.removeAll();
  for (const { name, regular, bold, italic, boldItalic } of FONT_FAMILIES) {
    for (const file of [regular, bold, italic, boldItalic]) {
      if (file !== null && !fonts.registerFromPath(file, name)) throw new Error(`the font ${file} cannot be loaded`);
    }
  }
  registered = true;
}

/** Makes a context draw with the fonts of the service, for any font that pdf.js sets. */
export function substituteFonts(context: { font: string }): void {
  const property = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(context), 'font');
  Object.defineProperty(context, 'font', {
    get: () => property?.get?.call(context),
    set: (css: string) => property?.set?.call(context, substitute(css)),
  });
}

/**
 * Replaces the families in a CSS font by all families of the service: first the one that stands in for the missing font,
 * then the others for letters that it lacks. pdf.js names the font of the document first and a generic family last.
 */
function substitute(css: string): string {
  const [, style = '', families = ''] = /^(.*?\dpx) (.*)$/s.exec(css) ?? [];
  const chosen = chooseFamily(/"([^"]*)"/.exec(families)?.[1] ?? '', families);
  const all = FONT_FAMILIES.map(({ name }) => name);
  const list = new Set(chosen === undefined ? all : [chosen, ...all]);
  // @napi-rs/canvas reads `italic normal` as upright.
  return `${style.replaceAll('normal', '')} ${[...list].map((name) => `"${name}"`).join(', ')}`;
}

function chooseFamily(fontName: string, families: string): FamilyName | undefined {
  if (isFamilyName(fontName)) return fontName;
  return familyByName(fontName) ?? GENERIC_FAMILIES.find(([pattern]) => pattern.test(families))?.[1];
}
