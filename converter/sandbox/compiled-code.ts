import { execFile } from 'node:child_process';
import { chmodSync, existsSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { CODE_FOLDERS } from './isolation/paths.ts';
import { NODE_FLAGS } from './process.ts';

/** The cache of compiled code. Sandboxes can only read it: otherwise one could plant code for others. */

const COMPILER = fileURLToPath(new URL('./compile.ts', import.meta.url));
const CODE = path.resolve(import.meta.dirname, '../..');

/**
 * The folder of the cache: beside the converter's compiled code, or in its data folder if that code lies in the project.
 * Sandboxes see the folders of the project, so nothing can be mounted there.
 */
export function compiledCodeFolder(dataFolder: string): string {
  const own = path.resolve(process.env.NODE_COMPILE_CACHE ?? CODE);
  const isApart = own !== CODE && !own.startsWith(`${CODE}/`);
  return path.join(isApart ? own : path.resolve(dataFolder, 'compile-cache'), 'sandboxes');
}

/** Fills `cacheFolder` unless it is newer than the code. */
export async function compileSandboxCode(
  cacheFolder: string,
  tasksModule: string | undefined,
  signal: AbortSignal,
): Promise<void> {
  if (isCurrent(cacheFolder)) return;
  const env = {
    PATH: process.env.PATH,
    NODE_COMPILE_CACHE: cacheFolder,
    ...(tasksModule !== undefined && { TASKS: tasksModule }),
  };
  await promisify(execFile)(process.execPath, [...NODE_FLAGS, COMPILER], { env, signal });
  // Sandboxes may run as other users.
  for (const entry of readdirSync(cacheFolder, { recursive: true, withFileTypes: true })) {
    if (!entry.isSymbolicLink())
      chmodSync(path.join(entry.parentPath, entry.name), entry.isDirectory() ? 0o755 : 0o644);
  }
}

function isCurrent(cacheFolder: string): boolean {
  const caches = existsSync(cacheFolder) ? readdirSync(cacheFolder) : [];
  const filledAt = Math.max(...caches.map((name) => statSync(path.join(cacheFolder, name)).mtimeMs));
  const files = CODE_FOLDERS.flatMap((folder) =>
    readdirSync(path.join(CODE, folder), { recursive: true, encoding: 'utf8' }).map((file) =>
      path.join(CODE, folder, file),
    ),
  );
  return files.every((file) => statSync(file).mtimeMs <= filledAt);
}
