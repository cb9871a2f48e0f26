import { FONT_FAMILIES } from '../../fonts.ts';

/** The fonts of @napi-rs/canvas, of which a process has one set. */
export interface FontRegistry {
  removeAll(): unknown;
  registerFromPath(file: string, name: string): unknown;
}

/** Fonts whose letters have the width of those that a document names but does not embed. */
const BY_NAME: [RegExp, string][] = [
  [/calibri|carlito/i, 'Carlito'],
  [/cambria|caladea/i, 'Caladea'],
  [/batang|gulim|dotum|malgun|gungsuh|nanum|my(eo|u)ng ?jo|^hygothic|gothic neo/i, 'Noto Sans KR'],
  [/mingliu|msung|mhei|jhenghei|adobe ?ming|(song|hei)ti ?tc|pingfang ?tc/i, 'Noto Sans TC'],
  [/sim(sun|hei|kai|fang)|song|heiti|yahei|kaiti|pingfang|\xcb\xce|\xba\xda|\xbf\xac|\xb7\xc2/i, 'Noto Sans SC'],
  [/mincho|heisei|koz(min|go)|meiryo|hiragino|ryumin|gothic ?bbb|(ms|yu) ?p?gothic/i, 'Noto Sans JP'],
];

const BY_KIND: [RegExp, string][] = [
  [/monospace$/, 'Cousine'],
  [/sans-serif$/, 'Arimo'],
  [/serif$/, 'Tinos'],
];

let registered = false;

/** Gives the canvas library the fonts of the service in place of the machine's. It maps them: all take 3 MB of memory. */
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

/** Lets a context draw with the fonts of the service, whichever font it is asked for. */
export function substituteFonts(context: { font: string }): void {
  const property = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(context), 'font');
  Object.defineProperty(context, 'font', {
    get: () => property?.get?.call(context),
    set: (css: string) => property?.set?.call(context, substitute(css)),
  });
}

/**
 * Replaces the families in a CSS font by all of ours: the one that stands for the missing font first, the others for
 * letters that it lacks. pdf.js names the font of the document first and its kind (`serif`, say) last.
 */
function substitute(css: string): string {
  const [, style = '', families = ''] = /^(.*?\dpx) (.*)$/s.exec(css) ?? [];
  const first = /"([^"]*)"/.exec(families)?.[1] ?? '';
  const known = BY_NAME.find(([pattern]) => pattern.test(first)) ?? BY_KIND.find(([pattern]) => pattern.test(families));
  const chosen = known?.[1] ?? first;
  const ours = FONT_FAMILIES.map(({ name }) => name);
  const list = new Set(ours.includes(chosen) ? [chosen, ...ours] : ours);
  // @napi-rs/canvas takes `italic normal` for upright.
  return `${style.replaceAll('normal', '')} ${[...list].map((name) => `"${name}"`).join(', ')}`;
}
