import { spawnSync } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import path from 'node:path';
import { openWorkFolder } from '../../../converter/files/work-folder.ts';

const DAY_MS = 24 * 3_600_000;

let root: string;
beforeEach(async () => {
  root = await mkdtemp(path.join(tmpdir(), 'sheetmill-data-'));
});
afterEach(() => rm(root, { recursive: true }));

const open = () => openWorkFolder({ STORE_URL: undefined, DATA_DIR: root });
const names = () => readdir(path.join(root, 'work'));

/** Creates the folder of a converter on a host, with an age. */
async function leave(host: string, pid: number | undefined, ageMs = 0): Promise<string> {
  const name = `sheetmill-work-${host}-${pid}-abcdef`;
  const folder = path.join(root, 'work', name);
  await mkdir(path.join(folder, 'run-1'), { recursive: true });
  await writeFile(path.join(folder, 'run-1/file'), '');
  await utimes(folder, new Date(), new Date(Date.now() - ageMs));
  return name;
}

test('other users may pass through a work folder and not list it, until it is closed', async () => {
  const work = await open();
  expect((await stat(work.path)).mode & 0o777).toBe(0o711);
  await writeFile(path.join(work.path, 'file'), '');
  await work.close();
  expect(await names()).toEqual([]);
});

test('only folders of killed converters are removed', async () => {
  const { pid } = spawnSync('true');
  await leave(hostname(), pid);
  await leave(hostname(), process.pid);
  await leave('other-host', pid, 2 * DAY_MS);
  const kept = [await leave(hostname(), process.ppid), await leave('other-host', pid)];
  const one = await open();
  const other = await open();
  const all = [...kept, path.basename(one.path), path.basename(other.path)];
  expect((await names()).toSorted()).toEqual(all.toSorted());
  await Promise.all([one.close(), other.close()]);
});

test('the folder of a long-running converter is kept', async () => {
  const work = await open();
  await utimes(work.path, new Date(), new Date(Date.now() - 2 * DAY_MS));
  await work.touch();
  expect(Date.now() - (await stat(work.path)).mtimeMs).toBeLessThan(60_000);
  await work.close();
});
