import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { mkdtemp, readdir, readlink, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { setTimeout } from 'node:timers/promises';
import yauzl from 'yauzl';
import { archive } from '../../../conversion/tasks/archive.ts';
import type { UploadFiles } from '../../../conversion/upload-task.ts';
import { taskContext } from '../../support/task-context.ts';

const upload = randomUUID();
let folder: string;
let root: string;
beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-pages-'));
  root = await mkdtemp(path.join(tmpdir(), 'sheetmill-archive-'));
});
afterEach(async () => {
  // Closing a file takes a moment after the stream is destroyed.
  for (let tries = 0; tries < 50 && (await openFiles()).length > 0; tries++) await setTimeout(20);
  expect(await openFiles()).toEqual([]);
  await rm(folder, { recursive: true });
  await rm(root, { recursive: true });
});

/** The files in the test's folder that this process has open. */
async function openFiles(): Promise<string[]> {
  const descriptors = await readdir('/proc/self/fd').catch(() => []);
  const open = await Promise.all(descriptors.map((name) => readlink(`/proc/self/fd/${name}`).catch(() => '')));
  return open.filter((name) => name.startsWith(folder) || name.startsWith(root));
}

async function makePages(contents: Record<string, Buffer>): Promise<UploadFiles> {
  const pages = Object.entries(contents).map(async ([name, content]) => {
    const [original = 0, page = 0] = name.split('-').map(Number);
    const file = path.join(folder, `${name}.png`);
    await writeFile(file, content);
    return { original, page, path: file, sha256: createHash('sha256').update(content).digest('hex') };
  });
  return { originals: [], pages: await Promise.all(pages) };
}

function contextOf(files: UploadFiles, signal = new AbortController().signal) {
  return taskContext({ upload_id: upload }, root, { files, signal });
}

async function filesLeft(): Promise<string[]> {
  const entries = await readdir(root, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map((entry) => entry.name);
}

async function readZip(file: string) {
  const zip = await yauzl.openPromise(file);
  const entries: { name: string; stored: boolean; content: Buffer }[] = [];
  for await (const entry of zip.eachEntry()) {
    const content = await buffer(await zip.openReadStreamPromise(entry));
    entries.push({ name: entry.fileName, stored: entry.compressionMethod === 0, content });
  }
  return entries;
}

test('a zip holds every page in order, stored, under its original and page', async () => {
  const contents = {
    '1-1': randomBytes(200_000),
    '1-2': randomBytes(10),
    '1-10000': randomBytes(5),
    '2-1': randomBytes(70_000),
  };
  const context = contextOf(await makePages(contents));
  await archive.run(context);
  const entries = await readZip(context.output);
  expect(entries.map(({ name }) => name)).toEqual(['1-0001.png', '1-0002.png', '1-10000.png', '2-0001.png']);
  expect(entries.every(({ stored }) => stored)).toBe(true);
  expect(Buffer.concat(entries.map(({ content }) => content))).toEqual(Buffer.concat(Object.values(contents)));
});

test('the result has the number of pages, and progress counts them', async () => {
  const context = contextOf(await makePages({ '1-1': randomBytes(1_000), '1-2': randomBytes(1_000) }));
  expect(await archive.run(context)).toEqual({ pages: 2 });
  expect(context.reports.progress).toEqual([
    [1, 2],
    [2, 2],
  ]);
});

test('an upload without pages fails the attempt, which may be retried', async () => {
  const run = archive.run(contextOf({ originals: [], pages: [] }));
  await expect(run).rejects.toMatchObject({
    code: 'task_failed',
    message: 'the upload has no pages yet',
    retryable: true,
  });
  expect(await filesLeft()).toEqual([]);
});

test('an abort stops a running archive', async () => {
  const controller = new AbortController();
  const context = contextOf(
    await makePages({ '1-1': randomBytes(10), '1-2': randomBytes(5_000_000) }),
    controller.signal,
  );
  context.progress = () => controller.abort();
  await expect(archive.run(context)).rejects.toMatchObject({ name: 'AbortError' });
});

test('an abort before the start leaves no file', async () => {
  const context = contextOf(await makePages({ '1-1': randomBytes(10) }), AbortSignal.abort());
  await expect(archive.run(context)).rejects.toMatchObject({ name: 'AbortError' });
  expect(await filesLeft()).toEqual([]);
});

test('a missing page file fails the archive', async () => {
  const files = await makePages({ '1-1': randomBytes(100_000), '1-2': randomBytes(10) });
  await rm(path.join(folder, '1-2.png'));
  await expect(archive.run(contextOf(files))).rejects.toMatchObject({ code: 'ENOENT' });
});

test('the memory of an archive does not grow with its pages', async () => {
  const files = await makePages({ '1-1': randomBytes(10_000_000) });
  const [first] = files.pages;
  if (first === undefined) throw new Error('no page');
  files.pages = Array.from({ length: 20 }, (_, index) => ({ ...first, page: index + 1 }));
  const context = contextOf(files);
  const peaks: number[] = [];
  context.progress = () => peaks.push(process.memoryUsage().arrayBuffers);
  const before = process.memoryUsage().arrayBuffers;
  expect(await archive.run(context)).toMatchObject({ pages: 20 });
  expect(Math.max(...peaks) - before).toBeLessThan(100_000_000);
});
