import type { Answer } from '../api/http.ts';

type Original = Answer<'original'>;
type Page = Answer<'page'>;

const EXTENSIONS = { 'application/pdf': 'pdf', 'image/png': 'png', 'image/jpeg': 'jpg' };

/** The name of an original, or its number if it has none. */
export function nameOf(originals: Original[], number: number): string {
  return originals.find(({ original }) => original === number)?.filename || `original ${number}`;
}

/** Such as `Page 3 of a.pdf`. */
export function titleOf(originals: Original[], { original, page }: Pick<Page, 'original' | 'page'>): string {
  return `Page ${page} of ${nameOf(originals, original)}`;
}

/** The filename of a page. */
export function pageFile(originals: Original[], { original, page }: Page): string {
  return `${stemOf(nameOf(originals, original))}-${String(page).padStart(4, '0')}.png`;
}

/** The filename of an original: its extension follows its content, not its name. */
export function originalFile({ filename, original, media_type }: Original): string {
  return `${stemOf(filename || `original-${original}`)}.${EXTENSIONS[media_type]}`;
}

/** The filename of the archive of an upload. */
export function archiveFile(originals: Original[]): string {
  return `${stemOf(nameOf(originals, 1))}.zip`;
}

function stemOf(name: string): string {
  return name.replace(/\.[A-Za-z0-9]{1,5}$/, '');
}
