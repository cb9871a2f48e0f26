import { existsSync } from 'node:fs';
import { mkdtemp, rm, statfs } from 'node:fs/promises';
import path from 'node:path';
import { detectIsolation } from '../../../converter/sandbox/isolation/detect.ts';
import { SandboxPool } from '../../../converter/sandbox/pool.ts';
import { createLogger } from '../../../runtime/log.ts';
import { prepareFor, taskRequest } from '../../support/prepare.ts';

const TMPFS_MAGIC = 0x01021994;
const MEMORY = '/dev/shm';
const hasMemoryFolder = existsSync(MEMORY) && (await statfs(MEMORY)).type === TMPFS_MAGIC;

const { TMPDIR } = process.env;
let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(path.join(MEMORY, 'sheetmill-files-'));
  process.env.TMPDIR = folder;
});
afterEach(async () => {
  if (TMPDIR === undefined) delete process.env.TMPDIR;
  else process.env.TMPDIR = TMPDIR;
  await rm(folder, { recursive: true });
});

(hasMemoryFolder ? test : test.skip).each([
  ['a file', false],
  ['a deleted file', true],
])('%s in memory counts against the reservation', async (_what, unlinked) => {
  const pool = new SandboxPool({
    keep: 1,
    roomMb: () => 1024,
    workFolder: folder,
    cacheFolder: path.join(folder, 'cache'),
    tasksModule: path.resolve(import.meta.dirname, '../../support/hostile-tasks.ts'),
    hidden: [],
    isolation: await detectIsolation({ foldersIn: folder }),
    log: createLogger('silent', {}),
  });
  const lease = pool.lease(256, null);
  const { outcome } = await lease.run(
    prepareFor(taskRequest({ type: 'fill', payload: { megabytes: 300, unlinked } })),
    {
      deadlineMs: 30_000,
      signal: new AbortController().signal,
      onEvent: () => undefined,
    },
  );
  lease.release();
  await pool.close();
  expect(outcome).toMatchObject({ kind: 'died', how: 'outgrown', error: { code: 'out_of_memory' } });
});
