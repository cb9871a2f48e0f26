import type { ChildProcess } from 'node:child_process';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { descendantsOf } from '../../runtime/process-tree.ts';
import { sheetmill } from '../cli/command.ts';
import { makeImage, makePdf, RED } from '../support/files.ts';
import { until } from '../support/service.ts';
import { commandOf, isAlive } from './processes.ts';

/** Runs the command line without a service: it starts a temporary one. */

let folder: string;
let temporary: string;
beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-embedded-test-'));
  temporary = await mkdtemp(path.join(folder, 'tmp-'));
  await writeFile(path.join(folder, 'a.pdf'), await makePdf([{ color: RED }, { color: RED }]));
  await writeFile(path.join(folder, 'b.pdf'), await makePdf([{ color: RED }]));
  await writeFile(path.join(folder, 'c.png'), await makeImage());
});
afterEach(() => rm(folder, { recursive: true }));

/** A temporary service ignores the variables of a shared one. */
function convert(...args: string[]) {
  const env = { TMPDIR: temporary, DATABASE_URL: 'postgres://nobody@127.0.0.1:9/nothing', MIN_FREE_MB: '0' };
  return sheetmill(['convert', ...args, '--out', 'out'], { env, cwd: folder });
}

/** All processes below this one, once there is one whose command line has these words. */
async function family({ pid }: ChildProcess, words: string): Promise<number[]> {
  return until(async () => {
    const members = descendantsOf(pid as number);
    return members.some((member) => commandOf(member).includes(words)) && members;
  }, 60_000);
}

test('convert leaves nothing behind but the pages', async () => {
  const { child, ended } = convert('a.pdf', 'b.pdf', 'c.png');
  const members = await family(child, 'sandbox/child.ts');
  expect(await ended).toMatchObject({ code: 0, stderr: '' });
  expect((await readdir(path.join(folder, 'out'))).sort()).toEqual([
    'a-0001.png',
    'a-0002.png',
    'b-0001.png',
    'c-0001.png',
  ]);
  expect(members.filter(isAlive)).toEqual([]);
  expect(await readdir(temporary)).toEqual([]);
}, 120_000);

test.each([
  ['while it starts', 'embedded/keeper.ts'],
  ['while it converts', 'sandbox/child.ts'],
])(
  'Ctrl-C %s leaves no process and no file',
  async (_when, words) => {
    await writeFile(
      path.join(folder, 'slow.pdf'),
      await makePdf(Array.from({ length: 60 }, () => ({ width: 419, height: 419, color: RED }))),
    );
    const { child, ended } = convert('slow.pdf', '--dpi', '600');
    const before = await family(child, words);
    child.kill('SIGINT');
    // npm passes on what the terminal has sent to all of them.
    child.kill('SIGINT');
    expect(await ended).toMatchObject({ code: 130, stdout: '', stderr: 'sheetmill: interrupted\n' });
    expect(before.filter(isAlive)).toEqual([]);
    expect(await readdir(temporary)).toEqual([]);
    expect(await readdir(path.join(folder, 'out'))).toEqual([]);
  },
  120_000,
);

test('the temporary service ends when its convert command is killed', async () => {
  const { child, ended } = convert('a.pdf');
  const members = await family(child, 'api/main.ts');
  child.kill('SIGKILL');
  await ended;
  await until(async () => !members.some(isAlive), 60_000);
}, 120_000);

test('convert exits with 3 and the reason if its service does not start', async () => {
  const { code, stdout, stderr } = await sheetmill(['convert', 'c.png', '--out', 'out', '--json'], {
    env: { TMPDIR: temporary, LOG_LEVEL: 'loud' },
    cwd: folder,
  }).ended;
  expect([code, stderr]).toEqual([
    3,
    expect.stringMatching(/^sheetmill: the service did not start: LOG_LEVEL="loud".*\n$/),
  ]);
  expect(JSON.parse(stdout)).toMatchObject({
    converted: 0,
    files: [{ file: 'c.png', error: { code: 'unreachable' } }],
  });
  expect(await readdir(temporary)).toEqual([]);
}, 120_000);

test('serve runs the whole service until SIGTERM', async () => {
  const { child, ended } = sheetmill(['serve'], { env: { DATA_DIR: path.join(folder, 'data'), PORT: '0' } });
  let said = '';
  child.stdout.on('data', (chunk) => {
    said += chunk;
  });
  const url = await until(async () => /listens on (\S+)\n/.exec(said)?.[1], 60_000);
  const members = descendantsOf(child.pid as number);
  const converted = sheetmill(['convert', 'c.png', '--out', 'out', '--url', url], { cwd: folder });
  expect(await converted.ended).toMatchObject({ code: 0, stdout: 'c.png: out/c-0001.png\n' });
  child.kill('SIGTERM');
  expect(await ended).toMatchObject({ code: 0, stdout: `sheetmill listens on ${url}\n`, stderr: '' });
  expect(members.filter(isAlive)).toEqual([]);
}, 120_000);
