import { execFileSync } from 'node:child_process';
import {
  appendFile,
  chmod,
  link,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { PrivateFolder } from '../../../converter/files/private-folder.ts';
import { RejectedOutput } from '../../../converter/files/rejected-output.ts';

/** Files outside the folder, such as those of the store. */
let store: string;
let work: string;
let folder: PrivateFolder;
const secret = () => path.join(store, 'secret');
const out = (name: string) => path.join(folder.output, name);
beforeEach(async () => {
  store = await mkdtemp(path.join(tmpdir(), 'sheetmill-store-'));
  work = await mkdtemp(path.join(tmpdir(), 'sheetmill-work-'));
  await writeFile(secret(), 'secret');
  folder = new PrivateFolder(work);
  await folder.begin();
});
afterEach(async () => {
  await folder.remove();
  expect(await readdir(work)).toEqual([]);
  expect([await readdir(store), await readFile(secret(), 'utf8')]).toEqual([['secret'], 'secret']);
  await Promise.all([store, work].map((name) => rm(name, { recursive: true })));
});

const read = (name: string, maxBytes = 100) =>
  folder.read(name, maxBytes, async ({ content }) => String(await buffer(content)));

test('a plain file is read completely', async () => {
  await writeFile(out('file'), 'content');
  expect(await read('file')).toBe('content');
});

test.each<[string, (file: string) => unknown]>([
  ['a symbolic link to a file', (file) => symlink('/etc/passwd', file)],
  ['a symbolic link to a file of the store', (file) => symlink(secret(), file)],
  ['a symbolic link to a device', (file) => symlink('/dev/zero', file)],
  ['a hard link', (file) => link(secret(), file)],
  ['a FIFO without a writer', (file) => execFileSync('mkfifo', [file])],
  ['a folder', (file) => mkdir(file)],
  ['nothing', () => undefined],
  ['an empty file', (file) => writeFile(file, '')],
  ['a file above the limit', (file) => writeFile(file, 'x'.repeat(101))],
  ['a huge file without content', (file) => writeFile(file, '').then(() => truncate(file, 2 ** 42))],
])('an output file that is %s is rejected', async (_, make) => {
  await make(out('file'));
  await expect(read('file')).rejects.toThrow(RejectedOutput);
});

test('an output file that is a socket is rejected', async () => {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(out('file'), resolve));
  await expect(read('file')).rejects.toThrow(RejectedOutput);
  await new Promise((resolve) => server.close(resolve));
});

const itWithDevices = process.getuid?.() === 0 ? test : test.skip;
itWithDevices('an output file that is a device is rejected', async () => {
  execFileSync('mknod', [out('file'), 'c', '1', '5']);
  await expect(read('file')).rejects.toThrow(RejectedOutput);
});

test('an output file that grows during the read is read up to its first size', async () => {
  await writeFile(out('file'), 'content');
  const text = await folder.read('file', 100, async ({ content }) => {
    await appendFile(out('file'), 'more');
    return String(await buffer(content));
  });
  expect(text).toBe('content');
});

test('an output file that shrinks during the read is rejected', async () => {
  await writeFile(out('file'), 'content');
  const reading = folder.read('file', 100, async ({ content }) => {
    await truncate(out('file'), 2);
    return buffer(content);
  });
  await expect(reading).rejects.toThrow(RejectedOutput);
});

test('an output file that is replaced by a link during the read stays the opened file', async () => {
  await writeFile(out('file'), 'content');
  const text = await folder.read('file', 100, async ({ content }) => {
    await rm(out('file'));
    await symlink(secret(), out('file'));
    return String(await buffer(content));
  });
  expect(text).toBe('content');
});

describe('a process that moves its folders', () => {
  const inPlace = (part: string) => path.join(folder.path, part);
  async function replace(part: string): Promise<void> {
    await rename(inPlace(part), inPlace(`${part}-moved`));
    await symlink(store, inPlace(part));
  }

  test('cannot make the converter read a file outside', async () => {
    await replace('out');
    await expect(read('secret')).rejects.toThrow(RejectedOutput);
  });

  test('cannot make the converter remove or write a file outside', async () => {
    await replace('in');
    await replace('out');
    await folder.drop('secret');
    await folder.copyIn(secret());
    expect(await folder.begin()).toBe(false);
  });
});

test('a copy is readable by other users, and a change to it does not change the source', async () => {
  await chmod(secret(), 0o600);
  const copy = await folder.copyIn(secret());
  expect((await stat(copy)).mode & 0o777).toBe(0o644);
  expect((await stat(copy)).ino).not.toBe((await stat(secret())).ino);
  await writeFile(copy, 'changed');
});

test('the folder is empty for each run, and closed to other users', async () => {
  await folder.copyIn(secret());
  await writeFile(out('file'), 'content');
  await symlink(secret(), out('link'));
  expect(await folder.begin()).toBe(true);
  expect(await readdir(folder.path, { recursive: true })).toEqual(['in', 'out']);
  expect((await stat(folder.path)).mode & 0o777).toBe(0o700);
});

test.each<[string, () => Promise<unknown>]>([
  ['a folder in its output', () => mkdir(out('folder'))],
  ['a file beside its folders', () => writeFile(path.join(folder.path, 'file'), '')],
  ['a folder less', () => rm(folder.output, { recursive: true })],
  ['a link to a folder', () => symlink(store, out('link')).then(() => mkdir(out('other')))],
])('the folder of a process that leaves %s is not used again', async (_, leave) => {
  await leave();
  expect(await folder.begin()).toBe(false);
});

test('a folder with any content is removed', async () => {
  await mkdir(path.join(folder.path, 'closed/more'), { recursive: true });
  await symlink(store, path.join(folder.path, 'closed/link'));
  await chmod(path.join(folder.path, 'closed'), 0o000);
  // The path is longer than the limit of system calls.
  const deep = `for (let depth = 0; depth < 60; depth++) {
    require('fs').mkdirSync('x'.repeat(200));
    process.chdir('x'.repeat(200));
  }`;
  execFileSync(process.execPath, ['-e', deep], { cwd: folder.output });
});
