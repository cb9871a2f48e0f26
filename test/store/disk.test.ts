import { mkdir, mkdtemp, readdir, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { openDiskStore } from '../../store/disk.ts';
import type { Store } from '../../store/store.ts';
import { chunks, describeStore } from './contract.ts';

let root: string;
let store: Store;
async function open(): Promise<Store> {
  root = await mkdtemp(path.join(tmpdir(), 'sheetmill-store-'));
  store = await openDiskStore(root);
  return store;
}
const close = () => rm(root, { recursive: true });

describe('a store on disk', () => describeStore(open, close));

describe('a store on disk only', () => {
  beforeEach(open);
  afterEach(close);

  async function onDisk(): Promise<string[]> {
    return (await readdir(root, { recursive: true })).sort();
  }

  test('a file appears at its path only when it is complete', async () => {
    const size = 4 * 2 ** 20;
    const target = path.join(root, 'a/b/c');
    const sizes = new Set<number>();
    let stored = false;
    const watching = (async () => {
      while (!stored) {
        sizes.add(
          await stat(target).then(
            (found) => found.size,
            () => 0,
          ),
        );
      }
    })();
    await store.receive(chunks(...Array.from({ length: 4 }, () => 'x'.repeat(2 ** 20))), () => 'a/b/c');
    stored = true;
    await watching;
    expect([...sizes].every((seen) => seen === 0 || seen === size)).toBe(true);
  });

  test('discarding a file removes the folders that were made for it', async () => {
    const received = await store.receive(chunks('content'), () => 'uploads/a/originals/1.png');
    await store.receive(chunks('content'), () => 'uploads/b/originals/1.png');
    await received.discard();
    expect(await onDisk()).toEqual([
      'incoming',
      'uploads',
      'uploads/b',
      'uploads/b/originals',
      'uploads/b/originals/1.png',
    ]);
  });

  test('empty folders are listed', async () => {
    await mkdir(path.join(root, 'uploads/c/pages'), { recursive: true });
    const found: string[] = [];
    for await (const file of store.files('uploads')) found.push(file);
    expect(found).toEqual(['uploads/c/pages']);
  });

  test('an unfinished file is found with its time, and is removed twice without error', async () => {
    const then = new Date('2026-01-02T03:04:05Z');
    await writeFile(path.join(root, 'incoming/half'), 'half');
    await utimes(path.join(root, 'incoming/half'), then, then);
    const names: string[] = [];
    for await (const { name, began, remove } of store.unfinished()) {
      expect(began).toEqual(then);
      names.push(name);
      await remove();
      await remove();
    }
    expect(names).toEqual(['incoming/half']);
    expect(await onDisk()).toEqual(['incoming']);
  });

  test('the check of a store without its folder fails', async () => {
    await rm(path.join(root, 'incoming'), { recursive: true });
    await expect(store.check()).rejects.toThrow();
  });

  test('an existing store keeps its files', async () => {
    await store.receive(chunks('content'), () => 'a/kept');
    const again = await openDiskStore(root);
    expect((await buffer(await again.read('a/kept'))).toString()).toBe('content');
  });
});
