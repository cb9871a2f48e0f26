import { once } from 'node:events';
import { mkdir, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { startSandboxProcess } from '../../converter/sandbox/process.ts';
import type { SandboxMessage } from '../../converter/sandbox/protocol.ts';
import { startEmbedded } from '../../db/embedded.ts';
import { migrateDatabase } from '../../db/migrate.ts';
import { createDatabase } from './database.ts';

/** One Postgres for the whole run, with a migrated template that every test file clones. */
export default async function globalSetup(): Promise<void> {
  const folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-test-'));
  // Every service of the run starts the same code: it is compiled once.
  process.env.NODE_COMPILE_CACHE = path.join(folder, 'compile-cache');
  await mkdir(process.env.NODE_COMPILE_CACHE);
  const compiled = compileSandbox(process.env.NODE_COMPILE_CACHE);
  // Nothing here has to survive a power cut.
  const postgres = await startEmbedded(path.join(folder, 'postgres'), {
    flags: [
      '-c',
      'fsync=off',
      '-c',
      'synchronous_commit=off',
      '-c',
      'full_page_writes=off',
      '-c',
      'max_connections=200',
    ],
  });
  process.env.TEST_POSTGRES_URL = postgres.url;
  await migrateDatabase(await createDatabase('template_migrated'));
  Object.assign(globalThis, { testRun: { folder, postgres, compiled } });
}

/** Fills the cache with the code of a sandbox, which writes it when it exits. Converters kill theirs. */
async function compileSandbox(cacheFolder: string): Promise<void> {
  const sandbox = startSandboxProcess(cacheFolder, undefined);
  for (const stream of [sandbox.stdout, sandbox.stderr]) stream?.resume();
  const exited = once(sandbox, 'exit');
  sandbox.on('message', ({ kind }: SandboxMessage) => {
    if (kind === 'warm') sandbox.disconnect();
  });
  await exited;
}
