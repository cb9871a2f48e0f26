import { constants } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import path from 'node:path';
import { codeOf } from './errors.ts';

/** The name of each file in the output folder: files of the same name get different ones. */
export function outputNames(files: string[]): string[] {
  const taken = new Set<string>();
  return files.map((file) => {
    const { name } = path.parse(file);
    for (let count = 1; ; count++) {
      const candidate = count === 1 ? name : `${name}-${count}`;
      // Some file systems ignore case.
      const key = candidate.normalize().toLowerCase();
      if (taken.has(key)) continue;
      taken.add(key);
      return candidate;
    }
  });
}

/** The reason why a file cannot be sent; undefined if it can. */
export async function whyUnusable(file: string): Promise<string | undefined> {
  try {
    const found = await stat(file);
    if (found.isDirectory()) return 'is a folder; give the files in it';
    if (!found.isFile()) return 'is not a regular file';
    await access(file, constants.R_OK);
    return undefined;
  } catch (error) {
    const code = codeOf(error);
    if (code !== 'ENOENT' && code !== 'ENOTDIR') return `cannot be read (${code})`;
    return /[*?[]/.test(file) ? 'matches no file' : 'does not exist';
  }
}
