import { execFile, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { makePdf, RED } from '../support/files.ts';
import { type Json, NOTHING_LEFT, type Service, startService } from '../support/service.ts';

/** The calls of docs/coming-from.md in order, as a reader would paste them. */
const DOCUMENT = readFileSync(path.join(import.meta.dirname, '../../docs/coming-from.md'), 'utf8');
const rows = DOCUMENT.split('\n').flatMap((line) => {
  const cells = line.split(' | ').map((cell) => cell.replace(/^\| | \|$/g, ''));
  const command = cells.map((cell) => /^`(curl .*)`$/.exec(cell)?.[1]).find((found) => found !== undefined);
  if (command === undefined) return [];
  const [, status = '200', , body = '{}'] = /^`(\d+)`( `(.*)`)?$/.exec(cells.at(-1) ?? '') ?? [];
  return [{ command, status, promised: JSON.parse(body) as Json }];
});

const isThere = spawnSync('curl', ['--version']).status === 0;

let service: Service;
let folder: string;
const variables: Record<string, string> = {};

beforeAll(async () => {
  service = await startService({ env: { CAPACITY_MEMORY_MB: '2048' } });
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-coming-from-'));
  await writeFile(path.join(folder, 'book.pdf'), await makePdf([{ color: RED }]));
  // Every line runs as written, and its status is printed.
  await writeFile(path.join(folder, '.curlrc'), 'silent\nshow-error\nwrite-out = "\\n%{http_code}"\n');
  variables.URL = service.url;
});
afterAll(async () => {
  await service.patch('/jobs/later/cancel');
  // The archives were deleted with their upload; the jobs that made them are kept.
  expect(await service.leftovers()).toMatchObject({ ...NOTHING_LEFT, filesMissing: expect.any(Array) });
  expect(await service.audit()).toEqual([]);
  await service.stop();
  await rm(folder, { recursive: true });
});

test('there are rows for every status and for the usual calls', () => {
  const written = rows.map(({ command }) => command).join('\n');
  for (const status of ['scheduled', 'blocked', 'ready', 'running', 'retrying', 'completed', 'failed', 'cancelled']) {
    expect(written).toContain(`jobs?status=${status}`);
  }
  expect(rows.length).toBeGreaterThan(30);
});

(isThere ? test : test.skip).each(rows)('$command (skipped without curl)', async ({ command, status, promised }) => {
  const env = { ...process.env, ...variables, CURL_HOME: folder };
  const { stdout } = await promisify(execFile)('sh', ['-c', command], { cwd: folder, env });
  const [, text = '', code] = /^(.*)\n(\d{3})$/s.exec(stdout) ?? [];
  expect([command, code, text]).toEqual([command, status, expect.any(String)]);
  const body: Json = text === '' ? {} : JSON.parse(text);
  expect(body).toMatchObject(promised);
  const wanted = /[?&]status=(\w+)/.exec(command)?.[1];
  if (wanted !== undefined) for (const item of body.items) expect(item.status).toBe(wanted);

  // A reader waits in between and keeps the first ids.
  if (/uploads" -F/.test(command)) {
    await service.done(body.id);
    variables.ID ??= body.id;
  } else if (status === '201' && body.status !== 'scheduled') {
    const submitted: Json[] = body.items ?? [body];
    await Promise.all(submitted.map(({ job_id }) => service.jobDone(job_id)));
    variables.JOB ??= body.job_id;
  }
});
