import { CutFile, type RepairedImage } from './cut-file.ts';
import { repairJpeg } from './repair-jpeg.ts';
import { repairPng } from './repair-png.ts';

interface StoredImage {
  format: 'jpeg' | 'png';
  width: number;
  height: number;
}

/** Completes an image that was cut short. Returns null for a file that lacks more than its end. */
export async function repairImage(file: string, header: StoredImage): Promise<RepairedImage | null> {
  const cut = await CutFile.read(file);
  return header.format === 'jpeg' ? repairJpeg(cut, header) : repairPng(cut);
}
