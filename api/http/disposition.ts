import { posix } from 'node:path';
import { create } from 'content-disposition';
import type { Original, Page, Upload } from '../../db/uploads.ts';

/** Under which names browsers keep what is served (RFC 6266): made from a client's file name, which may hold anything. */

const MAX_NAME_LENGTH = 150;

export function originalDisposition(original: Original): string {
  const extension = posix.extname(original.path);
  return create(`${stemOf(original)}${extension}`);
}

/** Shown by browsers, and named after its original when it is kept. */
export function pageDisposition({ page }: Page, original: Original | undefined): string {
  return create(`${stemOf(original)}-${String(page).padStart(4, '0')}.png`, { type: 'inline' });
}

/** Named after the first original. */
export function archiveDisposition({ id }: Upload, first: Original | undefined): string {
  return create(`${first?.filename ? stemOf(first) : id}.zip`);
}

/** A client's file name without folders, extension, and what no file system or reader of names should meet. */
function stemOf(original: Original | undefined): string {
  const base = (original?.filename ?? '').toWellFormed().split(/[/\\]/).at(-1) ?? '';
  const stem = base.replace(/\.[A-Za-z0-9]{1,5}$/, '').replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}<>:"|?*]/gu, '_');
  return [...trimDots(stem)].slice(0, MAX_NAME_LENGTH).join('') || `original-${original?.original ?? 1}`;
}

/** Without dots and blanks at both ends. A regular expression would look at a run of them once for each of its characters. */
function trimDots(text: string): string {
  let start = 0;
  let end = text.length;
  while (start < end && '. '.includes(text.charAt(start))) start++;
  while (end > start && '. '.includes(text.charAt(end - 1))) end--;
  return text.slice(start, end);
}
