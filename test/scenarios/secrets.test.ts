import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { SECRET_VARIABLES, withoutApiVariables } from '../../runtime/config.ts';
import { descendantsOf } from '../../runtime/process-tree.ts';
import { encryptedPdf } from '../support/files.ts';
import { type Program, run } from '../support/programs.ts';
import { type Json, until } from '../support/service.ts';
import { commandOf } from './processes.ts';

const word = (name: string) => `${name}-${randomBytes(12).toString('hex')}`;
const KEY = word('key');
const PDF_PASSWORD = word('pdf');
/** Each value has a word in it that is nowhere else. */
const WORDS = Object.fromEntries(
  SECRET_VARIABLES.filter((name) => name !== 'DATABASE_URL').map((name) => [
    name,
    randomBytes(24).toString('base64url'),
  ]),
) as Record<(typeof SECRET_VARIABLES)[number], string>;
WORDS.API_KEYS = createHash('sha256').update(KEY).digest('hex');
const SECRETS = {
  ...WORDS,
  API_KEYS: JSON.stringify([{ name: 'root', sha256: WORDS.API_KEYS, scopes: ['admin'] }]),
  WEBHOOK_SECRET: `whsec_${Buffer.from(WORDS.WEBHOOK_SECRET, 'base64url').toString('base64')}`,
  // No server listens there.
  DATABASE_READ_URL: `postgres://reader:${WORDS.DATABASE_READ_URL}@127.0.0.1:1/replica`,
  REDIS_URL: `redis://:${WORDS.REDIS_URL}@127.0.0.1:1`,
  OTEL_EXPORTER_OTLP_HEADERS: `authorization=${WORDS.OTEL_EXPORTER_OTLP_HEADERS}`,
};
WORDS.WEBHOOK_SECRET = SECRETS.WEBHOOK_SECRET;

let folder: string;
const programs: Program[] = [];
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-secrets-'));
});
afterAll(async () => {
  await Promise.all(programs.map((program) => program.end()));
  await rm(folder, { recursive: true });
});

function start(command: string[], env: Record<string, string>): Program {
  const data = path.join(folder, 'data');
  const program = run(['node', ...command], {
    env: { NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE, DATA_DIR: data, PORT: '0', MIN_FREE_MB: '0', ...env },
  });
  programs.push(program);
  return program;
}

/** The names of those secrets that are in a text. */
const found = (secrets: Record<string, string>, text: string) =>
  Object.entries(secrets).flatMap(([name, value]) => (text.includes(value) ? [name] : []));

async function readProc(pid: number, file: 'cmdline' | 'environ'): Promise<string> {
  return readFile(`/proc/${pid}/${file}`, 'utf8').catch((error) => {
    // The process has ended, or does not let itself be read.
    if (['ENOENT', 'ESRCH', 'EACCES'].includes(error.code)) return '';
    throw error;
  });
}

test('npm start puts no secret into an environment, a command line, a log or a response', async () => {
  const seenFolder = path.join(folder, 'seen');
  await mkdir(seenFolder);
  const service = start(['cli/main.ts', 'serve'], {
    ...SECRETS,
    LOG_LEVEL: 'trace',
    JWT_ISSUER: 'https://issuer.example',
    JWT_AUDIENCE: 'sheetmill',
    OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:1',
    TASKS: './test/support/environment-tasks.ts',
    SEEN_FOLDER: seenFolder,
  });
  const url = await until(async () => {
    if (service.child.exitCode !== null) throw new Error(service.output());
    return /listens on (\S+)\n/.exec(service.output())?.[1];
  }, 60_000);
  const postgres = (await readFile(path.join(folder, 'data/postgres/password'), 'utf8')).trim();
  const secrets = { ...WORDS, postgres, key: KEY, pdf: PDF_PASSWORD };

  const answers: string[] = [];
  const ask = async (route: string, init: RequestInit = {}): Promise<Json> => {
    const headers = { Authorization: `Bearer ${KEY}`, Prefer: 'wait=30', ...init.headers };
    const response = await fetch(url + route, { ...init, headers });
    const answer = await response.text();
    answers.push(JSON.stringify([...response.headers]), answer);
    return answer.startsWith('{') ? JSON.parse(answer) : undefined;
  };
  const form = new FormData();
  form.append('file', new Blob([encryptedPdf(PDF_PASSWORD) as Uint8Array<ArrayBuffer>]), 'a.pdf');
  form.append('password', PDF_PASSWORD);
  const { id } = await ask('/uploads', { method: 'POST', body: form });
  await ask(`/uploads/${id}`);
  expect(await ask(`/uploads/${id}/status`)).toMatchObject({ status: 'completed' });
  for (const route of ['/uploads', `/uploads/${id}`, '/jobs', '/system', '/metrics', '/health/ready', '/jobs/none'])
    await ask(route);
  await ask('/uploads', { headers: { Authorization: 'Bearer unknown' } });
  expect(answers.flatMap((answer) => found(secrets, answer))).toEqual([]);

  const family = descendantsOf(service.child.pid as number);
  const commands = family.map(commandOf);
  for (const part of ['api/main.ts', 'converter/main.ts', 'sandbox/child.ts', 'embedded/keeper.ts', 'postgres'])
    expect([part, commands.some((command) => command.includes(part))]).toEqual([part, true]);
  for (const pid of family)
    for (const file of ['cmdline', 'environ'] as const)
      expect([commandOf(pid), file, found(secrets, await readProc(pid, file))]).toEqual([commandOf(pid), file, []]);

  const seen = await Promise.all(
    (await readdir(seenFolder)).map((file) => readFile(path.join(seenFolder, file), 'utf8')),
  );
  expect(seen.filter((text) => /(api|converter)\/main\.ts/.test(text)).length).toBe(2);
  expect(seen.flatMap((text) => found(secrets, text))).toEqual([]);

  const modes = ['postgres', 'store'].map(async (name) => (await stat(path.join(folder, 'data', name))).mode & 0o777);
  expect(await Promise.all(modes)).toEqual([0o700, 0o700]);
  expect(await service.end()).toEqual([0, null]);
  expect(found(secrets, service.output())).toEqual([]);
}, 120_000);

test('a process without npm start removes its secrets from its environment', async () => {
  const seenFolder = path.join(folder, 'seen apart');
  await mkdir(seenFolder);
  const parts = ['api', 'converter'].map((part) =>
    start([`${part}/main.ts`], {
      ...SECRETS,
      JWT_SECRET: '',
      // It loads tasks before it connects.
      DATABASE_URL: `postgres://me:${WORDS.JWT_SECRET}@127.0.0.1:1/none`,
      TASKS: './test/support/environment-tasks.ts',
      SEEN_FOLDER: seenFolder,
    }),
  );
  const seen = await until(async () => {
    const files = await readdir(seenFolder);
    const texts = await Promise.all(files.map((file) => readFile(path.join(seenFolder, file), 'utf8')));
    return texts.filter((text) => text.endsWith('}')).length === 2 && texts;
  }, 30_000);
  expect(seen.flatMap((text) => found(WORDS, text))).toEqual([]);
  await Promise.all(parts.map((part) => part.end('SIGKILL')));
}, 60_000);

/** A port where each connection ends at once; `closed` resolves with the third. */
async function startDeadEnd() {
  let count = 0;
  const third = Promise.withResolvers<void>();
  const server = createServer((socket) => {
    socket.destroy();
    if (++count === 3) third.resolve();
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { server, third: third.promise, port: (server.address() as { port: number }).port };
}

test.each([['api/main.ts'], ['converter/main.ts'], ['cli/main.ts', 'migrate'], ['cli/main.ts', 'serve']])(
  'a start of %s %s that fails shows no secret',
  async (...command) => {
    const secret = word('secret');
    const right = new URL(process.env.TEST_POSTGRES_URL as string);
    const urls = [
      Object.assign(new URL(right), { password: secret }).href,
      `postgres://me:${secret}/not-encoded@127.0.0.1/none`,
    ];
    const starts = urls.map((url) => start(command, { DATABASE_URL: url, LOG_LEVEL: 'trace' }));
    const ends = await Promise.all(starts.map(({ exited }) => exited));
    expect(ends.map(([code]) => code)).toEqual(urls.map(() => 1));
    for (const [index, { output }] of starts.entries()) {
      expect(output()).toMatch(/sheetmill: \S+/);
      expect([index, found({ secret }, output())]).toEqual([index, []]);
    }
    const { server, third, port } = await startDeadEnd();
    const waiting = start(command, {
      DATABASE_URL: `postgres://me:${secret}@127.0.0.1:${port}/none`,
      LOG_LEVEL: 'trace',
    });
    await third;
    await waiting.end('SIGKILL');
    server.close();
    expect(found({ secret }, waiting.output())).toEqual([]);
  },
  60_000,
);

test('a converter gets no secret of the API', () => {
  expect(
    Object.keys(withoutApiVariables({ ...SECRETS, DATABASE_URL: '', JWT_ISSUER: 'issuer', PORT: '0' })).sort(),
  ).toEqual([
    'AWS_ACCESS_KEY_ID',
    'AWS_SECRET_ACCESS_KEY',
    'AWS_SESSION_TOKEN',
    'DATABASE_URL',
    'OTEL_EXPORTER_OTLP_HEADERS',
    'OTEL_EXPORTER_OTLP_TRACES_HEADERS',
    'PORT',
  ]);
});
