import { posix } from 'node:path';
import { create } from 'content-disposition';
import type { Original, Page, Upload } from '../../db/uploads.ts';

/** File names for downloads (RFC 6266). They are made from the names of clients, which may contain anything. */

const MAX_NAME_LENGTH = 150;

export function originalDisposition(original: Original): string {
  const extension = posix.extname(original.path);
  return create(`${stemOf(original)}${extension}`);
}

/** Browsers show pages; a saved page is named after its original. */
export function pageDisposition({ page }: Page, original: Original | undefined): string {
  return create(`${stemOf(original)}-${String(page).padStart(4, '0')}.png`, { type: 'inline' });
}

/** An archive is named after the first original. */
export function archiveDisposition({ id }: Upload, first: Original | undefined): string {
  return create(`${first?.filename ? stemOf(first) : id}.zip`);
}

/** The file name of the client without folders, extension, and characters that are unsafe in file names. */
function stemOf(original: Original | undefined): string {
  const base = (original?.filename ?? '').toWellFormed().split(/[/\\]/).at(-1) ?? '';
  const stem = base.replace(/\.[A-Za-z0-9]{1,5}$/, '').replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}<>:"|?*]/gu, '_');
  return [...trimDots(stem)].slice(0, MAX_NAME_LENGTH).join('') || `original-${original?.original ?? 1}`;
}

/** Removes dots and spaces at both ends. A regular expression would take quadratic time for long runs. */
function trimDots(text: string): string {
  let start = 0;
  let end = text.length;
  while (start < end && '. '.includes(text.charAt(start))) start++;
  while (end > start && '. '.includes(text.charAt(end - 1))) end--;
  return text.slice(start, end);
}
