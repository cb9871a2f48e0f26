import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import type { Store } from '../../store/store.ts';

export async function* chunks(...parts: (string | Error)[]): AsyncGenerator<Buffer> {
  for (const part of parts) {
    if (part instanceof Error) throw part;
    yield Buffer.from(part);
  }
}

/** The tests of every store. `open` makes an empty one before each test, and `close` ends it. */
export function describeStore(open: () => Promise<Store>, close: () => Promise<void>): void {
  let store: Store;
  beforeEach(async () => {
    store = await open();
  });
  afterEach(() => close());

  const write = (name: string, content = name) => store.receive(chunks(content), () => name);
  const read = async (...what: Parameters<Store['read']>) => (await buffer(await store.read(...what))).toString();

  async function files(folder = 'all'): Promise<string[]> {
    const found: string[] = [];
    for await (const file of store.files(folder)) found.push(file);
    return found.sort();
  }

  async function unfinished() {
    const found: string[] = [];
    for await (const { name } of store.unfinished()) found.push(name);
    return found;
  }

  test('a received file has a size, a hash and the path that was chosen by its first bytes', async () => {
    const received = await store.receive(chunks('one ', 'two ', 'three'), (head) => `all/${head}`);
    expect(received).toMatchObject({
      path: 'all/one two three',
      bytes: 13,
      sha256: createHash('sha256').update('one two three').digest('hex'),
    });
    expect(await read('all/one two three')).toBe('one two three');
    expect(await unfinished()).toEqual([]);
  });

  test('the head is the first 1024 bytes of chunks of any size', async () => {
    const whole = 'abcdefgh'.repeat(1_000);
    for (const parts of [whole.match(/.{7}|.+/g) ?? [], [whole]]) {
      const received = await store.receive(chunks(...parts), (head) => {
        expect(head.toString()).toBe(whole.slice(0, 1_024));
        return 'all/file';
      });
      expect(received.bytes).toBe(8_000);
      expect(await read('all/file')).toBe(whole);
    }
  });

  test('an empty source is an empty file', async () => {
    const received = await store.receive(chunks(), (head) => `all/${head.length}`);
    expect(received).toMatchObject({ path: 'all/0', bytes: 0 });
    expect(await read('all/0')).toBe('');
  });

  test('a large source is stored completely and in order, and is read in part', async () => {
    const megabytes = 40;
    let given = 0;
    const hash = createHash('sha256');
    async function* source() {
      for (; given < megabytes; given++) {
        const chunk = Buffer.alloc(2 ** 20, given + 1);
        hash.update(chunk);
        yield chunk;
      }
    }
    const received = await store.receive(source(), () => 'all/large');
    expect(received).toMatchObject({ bytes: megabytes * 2 ** 20, sha256: hash.digest('hex') });
    const content = await buffer(await store.read('all/large'));
    expect(createHash('sha256').update(content).digest('hex')).toBe(received.sha256);
    expect(await read('all/large', { start: 5 * 2 ** 20 - 1, end: 5 * 2 ** 20 })).toBe('\x05\x06');
  });

  test.each([
    ['at once', []],
    ['after some bytes', ['some']],
    ['after many bytes', Array.from({ length: 12 }, () => 'x'.repeat(2 ** 20))],
  ])('a source that fails %s leaves nothing and rejects with its error', async (_, before) => {
    const failing = store.receive(chunks(...before, new Error('the client went away')), () => 'all/file');
    await expect(failing).rejects.toThrow('the client went away');
    expect([await files(), await unfinished()]).toEqual([[], []]);
  });

  test('a file with a refused head leaves nothing, and its source is closed', async () => {
    let isClosed = false;
    async function* endless() {
      try {
        for (;;) yield Buffer.alloc(2_000);
      } finally {
        isClosed = true;
      }
    }
    const refuse = () => {
      throw new Error('no such type');
    };
    await expect(store.receive(endless(), refuse)).rejects.toThrow('no such type');
    expect([isClosed, await files(), await unfinished()]).toEqual([true, [], []]);
  });

  test('discarding a file twice removes only that file', async () => {
    const received = await write('all/a/1');
    await write('all/b/1');
    await received.discard();
    await received.discard();
    expect(await files()).toEqual(['all/b/1']);
  });

  test('files received at the same time do not mix', async () => {
    const names = Array.from({ length: 20 }, (_, index) => `all/${index}`);
    await Promise.all(names.map((name) => write(name)));
    for (const name of names) expect(await read(name)).toBe(name);
  });

  test('a part of a file is read, and a missing file is refused before any byte', async () => {
    await write('all/file', '0123456789');
    expect(await read('all/file', { start: 0, end: 0 })).toBe('0');
    expect(await read('all/file', { start: 3, end: 9 })).toBe('3456789');
    await expect(store.read('all/nothing')).rejects.toMatchObject({ code: 'not_found', status: 404 });
  });

  test('a folder is removed with its files, and no other', async () => {
    for (const name of ['all/a/originals/1.png', 'all/a/pages/1-0001.1.png', 'all/ab/originals/1.png']) {
      await write(name);
    }
    await store.removeFolder('all/a');
    await store.removeFolder('all/a');
    expect(await files()).toEqual(['all/ab/originals/1.png']);
  });

  test('files below a folder are listed, those of one folder together', async () => {
    const names = ['all/a/originals/1.png', 'all/a/pages/1-0001.1.png', 'all/b/originals/1.png', 'else/1'];
    for (const name of names) await write(name);
    const found: string[] = [];
    for await (const file of store.files('all')) found.push(file);
    expect(found.toSorted()).toEqual(names.slice(0, 3));
    const folders = found.map((file) => file.split('/')[1]);
    expect(folders.filter((folder, index) => folder !== folders[index - 1])).toHaveLength(2);
    expect(await files('nowhere')).toEqual([]);
  });

  test('a file has a time of modification until it is removed', async () => {
    for (const name of ['all/1', 'all/2']) await write(name);
    // Some stores have whole seconds only.
    expect(Math.abs(Date.now() - Number(await store.modifiedAt('all/1')))).toBeLessThan(5_000);
    await store.removeFile('all/1');
    await store.removeFile('all/1');
    expect(await store.modifiedAt('all/1')).toBeUndefined();
    expect(await files()).toEqual(['all/2']);
  });

  test('a local copy is shared until its last release, and the stored file stays', async () => {
    const folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-store-'));
    try {
      await write('all/original');
      const [one, other] = await Promise.all([1, 2].map(() => store.local('all/original', folder)));
      for (const copy of [one, other]) expect(await readFile(copy?.file ?? '', 'utf8')).toBe('all/original');
      await one?.release();
      expect(await readFile(other?.file ?? '', 'utf8')).toBe('all/original');
      await other?.release();
      expect(await readdir(folder)).toEqual([]);
      expect(await read('all/original')).toBe('all/original');
      const late = store.local('all/late', folder).then(({ file }) => readFile(file));
      await expect(late).rejects.toThrow();
      await write('all/late');
      const copy = await store.local('all/late', folder);
      expect(await readFile(copy.file, 'utf8')).toBe('all/late');
      await copy.release();
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  test('the check of a working store succeeds', async () => {
    await store.check();
    expect(await store.freeMb()).toBeGreaterThan(0);
  });
}
