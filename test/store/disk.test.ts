import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, utimes } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { openDiskStore } from '../../store/disk.ts';
import { archivePath, originalPath, pagePath, readPath, uploadFolder } from '../../store/paths.ts';
import type { Store } from '../../store/store.ts';

let root: string;
let store: Store;
beforeEach(async () => {
  root = await mkdtemp(path.join(tmpdir(), 'sheetmill-store-'));
  store = await openDiskStore(root);
});
afterEach(() => rm(root, { recursive: true }));

async function* chunks(...parts: (string | Error)[]): AsyncGenerator<Buffer> {
  for (const part of parts) {
    if (part instanceof Error) throw part;
    yield Buffer.from(part);
  }
}

async function filesBelow(folder: string): Promise<string[]> {
  const found: string[] = [];
  for await (const file of store.files(folder)) found.push(file);
  return found;
}

async function files(): Promise<string[]> {
  const entries = await readdir(root, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(root, path.join(entry.parentPath, entry.name)));
}

test('what is received is counted, hashed, and known by its first bytes', async () => {
  const received = await store.receive(chunks('one ', 'two ', 'three'));
  expect(received.bytes).toBe(13);
  expect(received.sha256).toBe(createHash('sha256').update('one two three').digest('hex'));
  expect(received.head.toString()).toBe('one two three');
  await received.discard();
});

test('the head is the first 1024 bytes, however they come', async () => {
  const whole = 'abcdefgh'.repeat(1_000);
  const inPieces = await store.receive(chunks(...(whole.match(/.{7}|.+/g) ?? [])));
  const atOnce = await store.receive(chunks(whole));
  expect(inPieces.head.toString()).toBe(whole.slice(0, 1_024));
  expect(atOnce.head.toString()).toBe(whole.slice(0, 1_024));
  expect(inPieces.sha256).toBe(atOnce.sha256);
});

test('an empty source is an empty file', async () => {
  const received = await store.receive(chunks());
  expect([received.bytes, received.head.length]).toEqual([0, 0]);
  await received.keep('a/empty');
  expect((await stat(path.join(root, 'a/empty'))).size).toBe(0);
});

test('a source is read no faster than it is written', async () => {
  let given = 0;
  async function* endless() {
    for (; given < 64; given++) yield Buffer.alloc(2 ** 20, given);
  }
  const seen: number[] = [];
  const source = endless();
  const counted = (async function* () {
    for await (const chunk of source) {
      seen.push(given);
      yield chunk;
    }
  })();
  const received = await store.receive(counted);
  expect(seen).toEqual(Array.from({ length: 64 }, (_, index) => index)); // one chunk after the other, none ahead
  expect(received.bytes).toBe(64 * 2 ** 20);
});

test('a source that fails leaves nothing, and its error comes through', async () => {
  await expect(store.receive(chunks('half', new Error('the client went away')))).rejects.toThrow(
    'the client went away',
  );
  expect(await files()).toEqual([]);
});

test('nothing stands at the path before the file is kept, and all of it afterwards', async () => {
  const received = await store.receive(chunks('content'));
  expect((await files()).every((file) => file.startsWith('incoming/'))).toBe(true);
  await received.keep('uploads/u/originals/1.pdf');
  expect(await files()).toEqual(['uploads/u/originals/1.pdf']);
  expect(await readFile(store.localFile('uploads/u/originals/1.pdf'), 'utf8')).toBe('content');
});

test('to keep a file moves it: whoever reads the path sees nothing or everything', async () => {
  const content = 'x'.repeat(4 * 2 ** 20);
  const received = await store.receive(chunks(content));
  const target = path.join(root, 'a/b/c');
  const sizes = new Set<number>();
  let kept = false;
  const watching = (async () => {
    while (!kept)
      sizes.add(
        await stat(target).then(
          ({ size }) => size,
          () => 0,
        ),
      );
  })();
  await received.keep('a/b/c');
  kept = true;
  await watching;
  expect([...sizes].every((size) => size === 0 || size === content.length)).toBe(true);
});

test('a file that was kept outlives discard', async () => {
  const received = await store.receive(chunks('content'));
  await received.keep('a/kept');
  await received.discard();
  expect(await files()).toEqual(['a/kept']);
});

test('discard removes, twice as well', async () => {
  const received = await store.receive(chunks('content'));
  await received.discard();
  await received.discard();
  expect(await files()).toEqual([]);
});

test('files that come in at the same time do not mix', async () => {
  const received = await Promise.all(Array.from({ length: 20 }, (_, index) => store.receive(chunks(`file ${index}`))));
  await Promise.all(received.map((file, index) => file.keep(`all/${index}`)));
  for (let index = 0; index < 20; index++)
    expect(await readFile(path.join(root, `all/${index}`), 'utf8')).toBe(`file ${index}`);
});

test('a folder is removed with all that is in it, and only it', async () => {
  for (const name of ['uploads/a/originals/1.png', 'uploads/a/pages/1-0001.1.png', 'uploads/ab/originals/1.png']) {
    await (await store.receive(chunks(name))).keep(name);
  }
  await store.removeFolder('uploads/a');
  await store.removeFolder('uploads/a');
  expect(await files()).toEqual(['uploads/ab/originals/1.png']);
});

test('lists every file below a folder, those of one folder together, and empty folders', async () => {
  const names = ['uploads/a/originals/1.png', 'uploads/a/pages/1-0001.1.png', 'uploads/b/originals/1.png', 'else/1'];
  for (const name of names) await (await store.receive(chunks(name))).keep(name);
  await mkdir(path.join(root, 'uploads/c/pages'), { recursive: true });
  const found = await filesBelow('uploads');
  expect(found.toSorted()).toEqual([...names.slice(0, 3), 'uploads/c/pages']);
  const folders = found.map((file) => file.split('/')[1]);
  expect(folders.filter((folder, index) => folder !== folders[index - 1])).toHaveLength(3);
  expect(await filesBelow('incoming')).toEqual([]);
  expect(await filesBelow('nowhere')).toEqual([]);
});

test('a file tells when it was written, and is removed alone', async () => {
  for (const name of ['a/1', 'a/2']) await (await store.receive(chunks(name))).keep(name);
  const then = new Date('2026-01-02T03:04:05Z');
  await utimes(path.join(root, 'a/1'), then, then);
  expect(await store.modifiedAt('a/1')).toEqual(then);
  await store.removeFile('a/1');
  await store.removeFile('a/1');
  expect(await store.modifiedAt('a/1')).toBeUndefined();
  expect(await files()).toEqual(['a/2']);
});

test('a store that cannot be written says so', async () => {
  await store.check();
  await rm(path.join(root, 'incoming'), { recursive: true });
  await expect(store.check()).rejects.toThrow();
});

test('a store that exists is opened as it is', async () => {
  await (await store.receive(chunks('content'))).keep('a/kept');
  const again = await openDiskStore(root);
  expect(await readFile(again.localFile('a/kept'), 'utf8')).toBe('content');
});

test('paths are made of ids and numbers alone, and are unique to the attempt', () => {
  expect(uploadFolder('id')).toBe('uploads/id');
  expect(originalPath('id', 2, 'image/jpeg')).toBe('uploads/id/originals/2.jpg');
  expect(pagePath('id', 1, 12, '3')).toBe('uploads/id/pages/1-0012.3.png');
  expect(pagePath('id', 1, 123_456, '1')).toBe('uploads/id/pages/1-123456.1.png');
});

test('a path tells which upload it belongs to, and what attempts have made', () => {
  const id = '01a20a0b-5ccf-7021-8000-000000000000';
  expect(readPath(originalPath(id, 1, 'image/png'))).toEqual({ uploadId: id, made: undefined });
  expect(readPath(pagePath(id, 1, 1, '1'))).toEqual({ uploadId: id, made: 'pages' });
  expect(readPath(archivePath(id, 'key'))).toEqual({ uploadId: id, made: 'archives' });
  expect(readPath(uploadFolder(id))).toEqual({ uploadId: id, made: undefined });
  for (const other of ['incoming/1', 'uploads/a/pages/1', `else/${id}/pages/1`, `uploads/${id}x`])
    expect([other, readPath(other)]).toEqual([other, undefined]);
});
