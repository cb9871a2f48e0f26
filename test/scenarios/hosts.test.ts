import type { ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { startEmbedded } from '../../db/embedded/start.ts';
import { makeImage, makePdf } from '../support/files.ts';
import { canMakeHosts, makeHosts } from '../support/hosts.ts';
import { startPostgres } from '../support/postgres.ts';
import { type Json, NOTHING_LEFT, type Service, startService, until } from '../support/service.ts';
import { isAlive, sandboxesOf } from './processes.ts';

const able = canMakeHosts();
const PAGES = 6;

/** The steps to undo, in the order in which they were done. */
const undo: (() => Promise<void> | void)[] = [];
let network: ReturnType<typeof makeHosts<'api' | 'north' | 'south' | 'postgres'>>;
let postgres: Awaited<ReturnType<typeof startPostgres>>;
let service: Service;
let north: ChildProcess;
let south: ChildProcess;

beforeAll(async () => {
  if (!able) return;
  network = makeHosts(['api', 'north', 'south', 'postgres']);
  undo.push(network.remove);
  const folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-hosts-'));
  undo.push(() => rm(folder, { recursive: true }));
  await (await startEmbedded(path.join(folder, 'postgres'))).stop();
  const rules = path.join(folder, 'pg_hba.conf');
  await writeFile(rules, 'host all all all scram-sha-256\n');
  postgres = await startPostgres(path.join(folder, 'postgres'), {
    host: network.addressOf('postgres'),
    settings: [`hba_file=${rules}`],
    enter: network.enter('postgres'),
  });
  undo.push(postgres.stop);
  service = await startService({
    converters: 0,
    databaseUrl: postgres.url,
    enter: network.enter('api'),
    env: {
      HOST: network.addressOf('api'),
      AUTH: 'none',
      CAPACITY_CPU: '1',
      CAPACITY_MEMORY_MB: '1024',
      LOG_LEVEL: 'fatal',
      SHUTDOWN_GRACE_SECONDS: '0',
    },
  });
  undo.push(service.stop);
  [north, south] = await Promise.all([
    service.startConverter({}, network.enter('north')),
    service.startConverter({}, network.enter('south')),
  ]);
}, 120_000);
afterAll(async () => {
  const failures: unknown[] = [];
  for (const step of undo.reverse()) await Promise.resolve(step()).catch((error) => failures.push(error));
  expect(failures).toEqual([]);
}, 60_000);

/** The first result of `ask`, which may fail while Postgres or the API is away. */
const eventually = <T>(ask: () => Promise<T | undefined | false>) => until(() => ask().catch(() => undefined), 90_000);

async function rowsOf(query: string, values: unknown[] = []): Promise<Json[]> {
  return (await service.pool.query(query, values)).rows;
}

/** The row of the converter that a process is now. */
async function idOf({ pid }: ChildProcess): Promise<string | undefined> {
  const [row] = await rowsOf(`select id from converters where status = 'live' and name like '%-' || $1`, [`${pid}`]);
  return row?.id;
}

/** The attempts of a converter. */
function attemptsBy(converter: string | undefined): Promise<Json[]> {
  return rowsOf('select job_id, status, error from job_attempts where converter_id = $1', [converter]);
}

async function isRunning(converter: string | undefined): Promise<boolean> {
  return (await attemptsBy(converter)).some(({ status }) => status === 'running');
}

/** Pages that take about a third of a second each; gives the ids of the uploads. */
async function uploadMany(pdfs: number, images: number): Promise<string[]> {
  const page = { width: 420, height: 420, color: [30, 90, 150] as [number, number, number] };
  const pdf = await makePdf(Array.from({ length: PAGES }, (_, index) => ({ ...page, text: `${index + 1}` })));
  const image = await makeImage({ width: 900, height: 600 });
  const answers = await Promise.all([
    ...Array.from({ length: images }, () => service.upload([['photo.png', image]])),
    ...Array.from({ length: pdfs }, () => service.upload([['book.pdf', pdf]], { dpi: '600' })),
  ]);
  expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]));
  return answers.map(({ body }) => body.id);
}

const title = 'converters that are cut off and a Postgres that is killed, each on a separate host, lose nothing';
(able ? test : test.skip)(
  able ? title : `${title} (skipped: this takes root, iproute2 and setpriv)`,
  async () => {
    const uploads = await uploadMany(4, 8);
    const cutOff = await eventually(() => idOf(north));
    const other = await eventually(() => idOf(south));
    await eventually(async () => {
      // One converter may finish everything before the other is ready: then there is more to do.
      const [{ open }] = await rowsOf('select count(*)::int as open from uploads where finished_at is null');
      if (open === 0) uploads.push(...(await uploadMany(4, 8)));
      if (!(await isRunning(cutOff)) || (await attemptsBy(other)).length === 0) return false;
      network.cut('north');
      // Its job may have ended just before.
      const isCutOff = await isRunning(cutOff);
      if (!isCutOff) network.heal('north');
      return isCutOff;
    });
    const sandboxes = sandboxesOf(north.pid as number);

    // The other takes over what it held.
    const lost = await eventually(async () => {
      const attempts = await attemptsBy(cutOff);
      return !attempts.some(({ status }) => status === 'running') && attempts;
    });
    const codes = lost.filter(({ error }) => error !== null).map(({ job_id, error }) => [job_id, error.code]);
    expect(codes.length).toBeGreaterThan(0);
    expect(codes).toEqual(expect.arrayContaining(codes.map(([job]) => [job, 'converter_lost'])));
    const taken = codes.map(([job]) => job);
    await eventually(async () => (await attemptsBy(other)).some(({ job_id }) => taken.includes(job_id)));

    // The converter learns that it was lost when it reconnects: it kills its sandboxes and registers under a new id.
    expect(sandboxes.some(isAlive)).toBe(true);
    network.heal('north');
    const again = await eventually(() => idOf(north));
    expect(again).not.toBe(cutOff);
    expect(sandboxes.filter(isAlive)).toEqual([]);

    uploads.push(...(await uploadMany(3, 3)));
    await eventually(async () => (await attemptsBy(again)).some(({ status }) => status === 'completed'));
    await postgres.kill();
    await postgres.start();
    for (const id of uploads) {
      const done = await eventually(() => service.done(id, 5_000));
      const all = Array.from({ length: done.pages.length === 1 ? 1 : PAGES }, (_, index) => index + 1);
      expect(done).toMatchObject({
        status: 'completed',
        progress: { pages_done: all.length, pages_total: all.length },
      });
      expect(done.pages.map(({ page }: Json) => page)).toEqual(all);
    }

    await eventually(async () => (await service.leftovers()).jobs === 0);
    // The sweep removes files later that a lost converter had completed.
    expect({ ...(await service.leftovers()), filesNotListed: [] }).toEqual(NOTHING_LEFT);
    expect(await service.audit()).toEqual([]);
    for (const { path: file, sha256 } of await rowsOf('select path, sha256 from pages')) {
      const bytes = await readFile(path.join(service.folder, 'store', file));
      expect([file, createHash('sha256').update(bytes).digest('hex')]).toEqual([file, sha256]);
    }
    expect([north, south, service.api].map(({ exitCode, signalCode }) => exitCode ?? signalCode)).toEqual([
      null,
      null,
      null,
    ]);
  },
  240_000,
);
