import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Readable } from 'node:stream';
import { loadTasks } from '../../../conversion/registry.ts';
import { executeJob } from '../../../converter/executor.ts';
import { detectIsolation } from '../../../converter/sandbox/isolation/detect.ts';
import { SandboxPool } from '../../../converter/sandbox/pool.ts';
import { settleInBatches } from '../../../converter/settle-in-batches.ts';
import { parseConfig } from '../../../runtime/config.ts';
import { createLogger } from '../../../runtime/log.ts';
import { childrenOf } from '../../../runtime/process-tree.ts';
import { openDiskStore } from '../../../store/disk.ts';
import type { Store } from '../../../store/store.ts';
import { type JobsFixture, openJobsFixture } from '../../jobs/fixture.ts';
import { commandOf, isAlive } from '../../scenarios/processes.ts';
import type { Attack } from '../../support/hostile-files.ts';

const ORIGINAL = 'uploads/mine/originals/1.pdf';
const VICTIM = 'uploads/other/originals/1.pdf';

let fixture: JobsFixture;
const log = createLogger('silent', {});
let root: string;
let store: Store;
let pool: SandboxPool;
beforeAll(async () => {
  fixture = await openJobsFixture();
  root = await mkdtemp(path.join(tmpdir(), 'sheetmill-hostile-'));
  store = await openDiskStore(path.join(root, 'store'));
  await store.receive(Readable.from([Buffer.from('private')]), () => VICTIM);
  pool = new SandboxPool({
    keep: 1,
    roomMb: () => 1024,
    workFolder: root,
    cacheFolder: path.join(root, 'cache'),
    tasksModule: path.resolve(import.meta.dirname, '../../support/hostile-files.ts'),
    hidden: [],
    // Stronger isolation would stop most attacks before they reach the tested code.
    isolation: await detectIsolation({ from: 'memory' }),
    log,
  });
});
afterEach(async () => {
  expect(await stored(VICTIM)).toBe('private');
  await fixture.expectSound();
});
afterAll(async () => {
  await pool.close();
  expect((await readdir(root)).toSorted()).toEqual(['cache', 'store']);
  await rm(root, { recursive: true });
  await fixture.close();
});

const stored = (storePath: string) => readFile(path.join(root, 'store', storePath), 'utf8');
const sha256 = (bytes: string | Buffer) => createHash('sha256').update(bytes).digest('hex');

function sandboxes(): number[] {
  return childrenOf(process.pid).filter((pid) => isAlive(pid) && commandOf(pid).includes('sandbox/child.ts'));
}

/** Executes the only ready job. */
async function execute() {
  const job = await fixture.claimOne();
  const lease = pool.lease(job.memoryMb, null);
  const parts = {
    ...{ db: fixture.db, store, log, workFolder: root },
    tasks: await loadTasks(undefined),
    settle: settleInBatches(fixture.db, fixture.queues),
    config: parseConfig({}),
  };
  const execution = { runner: lease, stop: new AbortController().signal, lost: new AbortController() };
  await executeJob(parts, job, { ...execution, onWait: () => undefined }).finally(() => lease.release());
  return fixture.job(job.id);
}

/** Converts an upload whose file compromises its sandbox. */
async function attack(name: Attack['name']) {
  const file = JSON.stringify({ name, victim: path.join(root, 'store', VICTIM) } satisfies Attack);
  await store.receive(Readable.from([Buffer.from(file)]), () => ORIGINAL);
  const conversion = { original: 1, path: ORIGINAL, media_type: 'application/pdf', dpi: 72, page_selection: null };
  const id = await fixture.upload(1, { payload: { upload_id: 'mine', ...conversion } });
  const job = await execute();
  expect(await stored(ORIGINAL)).toBe(file);
  return { id, job, pages: await fixture.pages(id) };
}

test.each<[Attack['name'], string]>([
  ['link', 'corrupt_file'],
  ['fifo', 'corrupt_file'],
  ['pathForPage', 'sandbox_violation'],
  ['split', 'sandbox_violation'],
])('the attack %s fails only its upload, stores nothing, and ends the sandbox', async (name, code) => {
  const before = sandboxes();
  const { id, job, pages } = await attack(name);
  expect(job).toMatchObject({ status: 'failed', error: { code } });
  expect(pages.filter(({ path }) => path !== null)).toEqual([]);
  expect(await readdir(path.join(root, 'store/uploads', id)).catch(() => [])).toEqual([]);
  expect(sandboxes().filter((pid) => before.includes(pid))).toEqual([]);
});

test('a page that changes after it was stored is served as it was recorded', async () => {
  const { pages } = await attack('changeLater');
  expect(pages).toMatchObject([{ status: 'completed' }]);
  expect(sha256(await readFile(path.join(root, 'store', pages[0]?.path ?? '')))).toBe(pages[0]?.sha256);
});

test('a change to the input does not change the original', async () => {
  expect((await attack('changeInput')).pages).toMatchObject([{ status: 'completed' }]);
});

test('the path of the input does not reveal other uploads', async () => {
  const { job } = await attack('lookAround');
  const { rows } = await fixture.db.execute<{ message: string }>(
    `select message from events where job_id = '${job.id}' and kind = 'log'`,
  );
  expect(rows).toEqual([{ message: expect.stringMatching(/^[0-9a-f-]{36}\.pdf$/) }]);
});

test('the result of an archive describes the stored file', async () => {
  const { id } = await attack('changeInput');
  await fixture.submit({ type: 'archive', payload: { upload_id: id } });
  const { result } = await execute();
  expect(result).toMatchObject({ bytes: 7, sha256: sha256('archive'), pages: 1 });
  expect(result?.path).toMatch(new RegExp(`^uploads/${id}/archives/[0-9a-f-]{36}\\.zip$`));
  expect(await stored(String(result?.path))).toBe('archive');
});

test('an archive that is a link fails its job', async () => {
  const id = await fixture.upload();
  await fixture.finishAll();
  await store.receive(Readable.from([Buffer.from('PDF')]), () => `uploads/${id}/originals/1.pdf`);
  await fixture.submit({ type: 'archive', payload: { upload_id: id } });
  expect(await execute()).toMatchObject({ status: 'failed', error: { code: 'task_failed' } });
});
