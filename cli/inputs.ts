import { constants } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import path from 'node:path';

/** What one file of the command line is called in the output folder: files of the same name never collide. */
export function outputNames(files: string[]): string[] {
  const taken = new Set<string>();
  return files.map((file) => {
    const { name } = path.parse(file);
    for (let count = 1; ; count++) {
      const candidate = count === 1 ? name : `${name}-${count}`;
      // Some file systems do not tell A from a.
      const key = candidate.normalize().toLowerCase();
      if (taken.has(key)) continue;
      taken.add(key);
      return candidate;
    }
  });
}

/** Why a file cannot be sent, in words; undefined when it can. */
export async function whyUnusable(file: string): Promise<string | undefined> {
  try {
    const found = await stat(file);
    if (found.isDirectory()) return 'is a folder: name the files in it';
    if (!found.isFile()) return 'is no regular file';
    await access(file, constants.R_OK);
    return undefined;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'ENOTDIR') return `cannot be read (${code})`;
    return /[*?[]/.test(file) ? 'matches no file' : 'is not there';
  }
}
