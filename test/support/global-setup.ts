import { mkdir, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { startWithAdmin } from '../../bench/superuser.ts';
import { compiledCodeFolder, compileSandboxCode } from '../../converter/sandbox/compiled-code.ts';
import { migrateDatabase } from '../../db/migrate.ts';
import { createDatabase } from './database.ts';

/** One Postgres for the whole run, with a migrated template that every test file clones. */
export default async function globalSetup(): Promise<void> {
  const folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-test-'));
  // Every service of the run starts the same code: it is compiled once.
  process.env.NODE_COMPILE_CACHE = path.join(folder, 'compile-cache');
  await mkdir(process.env.NODE_COMPILE_CACHE);
  const compiled = compileSandboxCode(compiledCodeFolder(folder), undefined, new AbortController().signal);
  // Nothing here has to survive a power cut.
  const settings = ['fsync=off', 'synchronous_commit=off', 'full_page_writes=off', 'max_connections=200'];
  const postgres = await startWithAdmin(path.join(folder, 'postgres'), settings);
  process.env.TEST_POSTGRES_URL = postgres.url;
  process.env.TEST_POSTGRES_ADMIN_URL = postgres.adminUrl;
  await migrateDatabase(await createDatabase('template_migrated'));
  await compiled;
  Object.assign(globalThis, { testRun: { folder, postgres } });
}
