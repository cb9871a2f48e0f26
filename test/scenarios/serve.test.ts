import type { ChildProcess } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { descendantsOf } from '../../runtime/process-tree.ts';
import { sheetmill } from '../cli/command.ts';
import { makeImage } from '../support/files.ts';
import { type Json, until } from '../support/service.ts';
import { commandOf, isAlive } from './processes.ts';

const URL_LINE = /^sheetmill listens on (http:\/\/127\.0\.0\.1:\d+)\n$/;

let folder: string;
const started: ChildProcess[] = [];
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-start-'));
});
afterAll(async () => {
  for (const child of started) if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
  await until(async () => started.every(({ exitCode, signalCode }) => exitCode !== null || signalCode !== null));
  await rm(folder, { recursive: true });
});

function start() {
  const env = { DATABASE_URL: '', DATA_DIR: folder, PORT: '0', CAPACITY_CPU: '1' };
  const service = sheetmill(['serve'], { env });
  started.push(service.child);
  let output = '';
  service.child.stdout.on('data', (chunk) => {
    output += chunk;
  });
  const url = () =>
    until(async () => {
      if (service.child.exitCode !== null) throw new Error((await service.ended).stderr);
      return URL_LINE.exec(output)?.[1];
    }, 60_000);
  return { ...service, url };
}

async function get(url: string): Promise<Json> {
  const response = await fetch(url);
  expect([url, response.status]).toEqual([url, 200]);
  return response.json();
}

async function convertOne(url: string): Promise<Json> {
  const form = new FormData();
  form.append('file', new Blob([(await makeImage()) as Uint8Array<ArrayBuffer>]), 'a.png');
  const { id } = (await (await fetch(`${url}/uploads`, { method: 'POST', body: form })).json()) as Json;
  await until(async () => (await get(`${url}/uploads/${id}/status`)).done);
  const done = await get(`${url}/uploads/${id}`);
  expect(done).toMatchObject({ status: 'completed', progress: { pages_done: 1, pages_total: 1 } });
  return done;
}

/** The processes that the service has started: API, converter, sandboxes, Postgres and its keeper. */
function family({ pid }: ChildProcess): number[] {
  const found = descendantsOf(pid as number);
  expect(found.length).toBeGreaterThan(6);
  return found;
}

const isApi = (pid: number) => commandOf(pid).includes('api/main.ts');

test('serve starts and stops all processes, keeps uploads, and restarts a part that dies', async () => {
  const first = start();
  const url = await first.url();
  await get(`${url}/health/ready`);
  const document = await convertOne(url);
  const members = family(first.child);
  first.child.kill('SIGTERM');
  expect(await first.ended).toEqual({ code: 0, signal: null, stdout: `sheetmill listens on ${url}\n`, stderr: '' });
  expect(members.filter(isAlive)).toEqual([]);

  const second = start();
  const again = await second.url();
  expect(await get(`${again}/uploads/${document.id}`)).toEqual(document);

  // A killed launcher stops nothing: the other processes notice its end.
  const orphans = family(second.child);
  second.child.kill('SIGKILL');
  await second.ended;
  await until(async () => !orphans.some(isAlive), 30_000);

  const third = start();
  const onceMore = await third.url();
  expect((await get(`${onceMore}/uploads`)).items.map(({ id }: Json) => id)).toEqual([document.id]);
  await convertOne(onceMore);

  const api = descendantsOf(third.child.pid as number).find(isApi) as number;
  process.kill(api, 'SIGKILL');
  await until(async () => descendantsOf(third.child.pid as number).some((pid) => pid !== api && isApi(pid)));
  const last = family(third.child);
  third.child.kill('SIGINT');
  expect(await third.ended).toMatchObject({ code: 0, signal: null });
  expect(last.filter(isAlive)).toEqual([]);
}, 180_000);

test.each([
  ['PORT', 'abc'],
  ['LOG_LEVEL', 'loud'],
])('%s=%s is refused with one line that names it', async (name, value) => {
  const { code, stdout, stderr } = await sheetmill(['serve'], { env: { DATA_DIR: folder, [name]: value } }).ended;
  expect([code, stdout]).toEqual([1, '']);
  expect(stderr).toMatch(new RegExp(`^sheetmill: .*${name}="${value}".*\n$`));
});
