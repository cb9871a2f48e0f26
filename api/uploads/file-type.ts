import type { MediaType } from '../../store/paths.ts';

const PNG = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
const JPEG = Buffer.from([0xff, 0xd8, 0xff]);

/** The type that a file's first 1024 bytes show, or null. A PDF's header may stand anywhere in them, as readers accept it. */
export function sniff(head: Buffer): MediaType | null {
  if (head.subarray(0, PNG.length).equals(PNG)) return 'image/png';
  if (head.subarray(0, JPEG.length).equals(JPEG)) return 'image/jpeg';
  if (head.subarray(0, 1024).includes('%PDF-')) return 'application/pdf';
  return null;
}
