import { randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdtemp, readdir, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { createCopies } from './copies.ts';
import type { Workspace } from './store.ts';

const PREFIX = 'sheetmill-work-';

/** Workspaces in the temporary folder, for a store that is no disk. `fetch` makes a local file of what is stored, `write` stores. */
export async function openWorkspaces({
  fetch,
  write,
}: {
  fetch(storePath: string, file: string): Promise<void>;
  write(storePath: string, content: Readable): Promise<void>;
}): Promise<() => Promise<Workspace>> {
  await removeOldWork();
  const temporary = path.join(await realpath(tmpdir()), `${PREFIX}${process.pid}-`);
  const takeCopy = createCopies(async (storePath) => {
    const file = temporary + randomUUID();
    try {
      await fetch(storePath, file);
      return file;
    } catch (error) {
      await rm(file, { force: true });
      throw error;
    }
  });

  return async function openWorkspace() {
    const output = await mkdtemp(temporary);
    const inputs: (() => Promise<void>)[] = [];

    async function publish(relative: string): Promise<void> {
      const file = path.join(output, relative);
      // A sandbox that was taken over may say anything: neither `..` nor a link leads out of the folder.
      if (!file.startsWith(output + path.sep) || (await realpath(file)) !== file) {
        throw new Error(`no file of this attempt: ${relative}`);
      }
      await write(path.relative(output, file), createReadStream(file));
      await rm(file);
    }

    return {
      output,
      async input(storePath) {
        const { file, giveBack } = await takeCopy(storePath);
        inputs.push(giveBack);
        return file;
      },
      publish,
      async publishAll() {
        const entries = await readdir(output, { recursive: true, withFileTypes: true });
        for (const entry of entries.filter((one) => one.isFile())) {
          await publish(path.relative(output, path.join(entry.parentPath, entry.name)));
        }
      },
      async close() {
        await Promise.all(inputs.map((giveBack) => giveBack()));
        await rm(output, { recursive: true, force: true }).catch(() => undefined);
      },
    };
  };
}

/** Of processes of this machine that were killed. Their ids are in the names; this one's id can only be from before it. */
async function removeOldWork(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    const [, pid] = name.match(new RegExp(`^${PREFIX}(\\d+)-`)) ?? [];
    if (pid === undefined || (Number(pid) !== process.pid && isAlive(Number(pid)))) continue;
    await rm(path.join(tmpdir(), name), { recursive: true, force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
