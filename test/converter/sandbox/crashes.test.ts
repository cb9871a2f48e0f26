import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { runWithRecovery } from '../../../converter/continue-after-crash.ts';
import { compiledCodeFolder } from '../../../converter/sandbox/compiled-code.ts';
import { detectIsolation } from '../../../converter/sandbox/isolation/detect.ts';
import { SandboxPool } from '../../../converter/sandbox/pool.ts';
import { createLogger } from '../../../runtime/log.ts';
import { emptyPdf, makePdf, RED } from '../../support/files.ts';
import { prepareFor, taskRequest } from '../../support/prepare.ts';

const MEMORY_MB = 256;
const CONVERSION = {
  ...{ upload_id: 'u', original: 1, path: 'a.pdf', media_type: 'application/pdf', dpi: 72, page_selection: null },
};

let folder: string;
let pool: SandboxPool;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-crashes-'));
  await writeFile(path.join(folder, 'sound.pdf'), await makePdf([{ color: RED }]));
  await writeFile(path.join(folder, 'empty.pdf'), emptyPdf());
  pool = new SandboxPool({
    keep: 1,
    roomMb: () => 1024,
    workFolder: folder,
    cacheFolder: compiledCodeFolder(folder),
    tasksModule: path.join(import.meta.dirname, 'crashing-tasks.ts'),
    hidden: [],
    isolation: await detectIsolation({ foldersIn: folder }),
    log: createLogger('silent', {}),
  });
});
afterAll(async () => {
  await pool.close();
  await rm(folder, { recursive: true });
});

async function open(file: string, engines: string[], by: string) {
  const lease = pool.lease(MEMORY_MB, null);
  const request = taskRequest({
    type: 'convert',
    payload: { ...CONVERSION, engines, by },
    input: path.join(folder, file),
    reservation: { cpuUnits: 1, memoryMb: MEMORY_MB },
  });
  const options = { deadlineMs: 60_000, signal: new AbortController().signal, onEvent: () => undefined };
  const memory = { reservedMb: MEMORY_MB, maxMb: MEMORY_MB };
  const { outcome } = await runWithRecovery(lease, prepareFor(request), options, memory).finally(() => lease.release());
  return outcome;
}

test.each(['exception', 'rejection', 'signal'])('after an engine crashes with an %s, the other is used', async (by) => {
  expect(await open('sound.pdf', ['pdfium'], by)).toEqual({ kind: 'completed', result: { pageCount: 1 } });
});

test('a file that crashes both engines is corrupt', async () => {
  const error = { code: 'corrupt_file', message: 'opening the file failed: the engine crashed' };
  expect(await open('sound.pdf', ['pdfium', 'pdf-to-img'], 'exception')).toMatchObject({ kind: 'failed', error });
});

test('a file that crashes one engine and is unreadable for the other is corrupt', async () => {
  expect(await open('empty.pdf', ['pdfium'], 'signal')).toMatchObject({
    kind: 'failed',
    error: { code: 'corrupt_file' },
  });
});
