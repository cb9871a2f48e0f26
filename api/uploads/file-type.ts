import type { MediaType } from '../../store/paths.ts';

const PNG = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
const JPEG = Buffer.from([0xff, 0xd8, 0xff]);

/** Detects the type of a file by its first 1024 bytes. As in PDF readers, the header of a PDF can be anywhere in them. */
export function detectType(head: Buffer): MediaType | null {
  if (head.subarray(0, PNG.length).equals(PNG)) return 'image/png';
  if (head.subarray(0, JPEG.length).equals(JPEG)) return 'image/jpeg';
  if (head.subarray(0, 1024).includes('%PDF-')) return 'application/pdf';
  return null;
}
