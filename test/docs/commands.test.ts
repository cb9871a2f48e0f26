import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { JOB_STATUSES } from '../../db/schema.ts';
import packageJson from '../../package.json' with { type: 'json' };
import { makePdf, RED } from '../support/files.ts';
import { freePort, hasProgram, ROOT } from '../support/programs.ts';
import { type Json, NOTHING_LEFT, type Service, startService, until } from '../support/service.ts';
import { type Block, blocksOf, DOCUMENTS, readDocument } from './blocks.ts';

/**
 * Runs the blocks of the documents in order, as a reader would paste them, against one service. A mark after the language
 * changes that: a `background` block runs until the end of the document. Any other mark names a need that a test cannot
 * meet, such as `docker`, and the block is only checked.
 */
const LANGUAGES = ['sh', 'js', 'ts', 'python'];
const withCode = DOCUMENTS.map((document) => ({
  document,
  blocks: blocksOf(document).filter(({ language }) => LANGUAGES.includes(language) || language === 'json'),
}));
const run = withCode.filter(({ blocks }) => blocks.some(({ language, mark }) => language !== 'json' && mark === ''));
const checked = withCode.flatMap(({ document, blocks }) =>
  blocks.filter(({ mark }) => mark !== '' && mark !== 'background').map((block) => ({ document, ...block })),
);

/** Stands before every shell block: the commands of this folder, without the time that npx takes. */
const PRELUDE = `set -euo pipefail
npx() { [ "$1" = sheetmill ]; shift; node cli/main.ts "$@"; }
touch variables
. ./variables
`;
const WEBHOOK_SECRET = `whsec_${randomBytes(32).toString('base64')}`;

let service: Service;
let folder: string;
let receiverPort: string;

beforeAll(async () => {
  const tasks = path.join(ROOT, 'examples/tasks/index.ts');
  service = await startService({ env: { CAPACITY_MEMORY_MB: '2048', WEBHOOK_SECRET, TASKS: tasks } });
  receiverPort = String(await freePort());
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-docs-'));
  for (const name of await readdir(ROOT)) await symlink(path.join(ROOT, name), path.join(folder, name));
  await writeFile(path.join(folder, '.curlrc'), 'fail-with-body\nshow-error\n');
});
afterAll(async () => {
  await service?.stop();
  await rm(folder, { recursive: true });
});

describe('docs/coming-from.md', () => {
  const rows = callsOf(readDocument('docs/coming-from.md'));
  const variables: Record<string, string> = {};

  beforeAll(async () => {
    variables.URL = service.url;
    variables.CURL_HOME = path.join(folder, 'coming-from');
    await mkdir(variables.CURL_HOME);
    await writeFile(path.join(variables.CURL_HOME, 'book.pdf'), await makePdf([{ color: RED }]));
    // Every line runs as written, and its status is printed.
    await writeFile(path.join(variables.CURL_HOME, '.curlrc'), 'silent\nshow-error\nwrite-out = "\\n%{http_code}"\n');
  });

  test('has rows for every status and for the usual calls', () => {
    const commands = rows.map(({ command }) => command).join('\n');
    for (const status of JOB_STATUSES) expect(commands).toContain(`jobs?status=${status}`);
    expect(rows.length).toBeGreaterThan(30);
  });

  test.each(rows)('$command', async ({ command, status, promised }) => {
    const env = { ...process.env, ...variables };
    const { stdout } = await promisify(execFile)('sh', ['-c', command], { cwd: variables.CURL_HOME, env });
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

  test('leaves nothing behind but the archives of the deleted upload', async () => {
    await service.patch('/jobs/later/cancel');
    expect(await service.leftovers()).toMatchObject({ ...NOTHING_LEFT, filesMissing: expect.any(Array) });
    expect(await service.audit()).toEqual([]);
  });
});

test.each(run)('the examples of $document work', async ({ blocks }) => {
  await rm(path.join(folder, 'variables'), { force: true });
  const background: { child: ChildProcess; output: string }[] = [];
  let output = '';
  try {
    for (const block of blocks) {
      if (block.language === 'json') expectShape(lastJson(output), JSON.parse(block.text));
      else if (block.mark === 'background') background.push(await startInBackground(block));
      else if (block.mark === '') output = await runBlock(block);
    }
    for (const started of background) await until(async () => started.output !== '', 10_000);
  } finally {
    for (const { child } of background) child.kill();
  }
});

test.each(checked)('$document:$line, which needs $mark, is well formed', ({ language, text }) => {
  if (language !== 'sh') return;
  expect(spawnSync('bash', ['-n'], { input: text, encoding: 'utf8' }).stderr).toBe('');
  for (const [, script = ''] of text.matchAll(/npm run (?:--silent )?([\w:-]+)/g))
    expect(packageJson.scripts).toHaveProperty([script]);
  for (const [, file = ''] of text.matchAll(/(?:^|\s)@?((?:deploy|examples|docs)\/[\w./-]+)/gm))
    expect([file, existsSync(path.join(ROOT, file))]).toEqual([file, true]);
});

test('every block has a language that is run, or none', () => {
  const languages = new Set(DOCUMENTS.flatMap((document) => blocksOf(document).map(({ language }) => language)));
  expect([...languages].filter((language) => ![...LANGUAGES, 'json', 'mermaid', 'sql', ''].includes(language))).toEqual(
    [],
  );
});

/** The calls in the tables of a document, each with the status and the members of its answer. */
function callsOf(text: string): { command: string; status: string; promised: Json }[] {
  return text.split('\n').flatMap((line) => {
    const cells = line.split(' | ').map((cell) => cell.replace(/^\| | \|$/g, ''));
    const command = cells.map((cell) => /^`(curl .*)`$/.exec(cell)?.[1]).find((found) => found !== undefined);
    if (command === undefined) return [];
    const [, status = '200', , body = '{}'] = /^`(\d+)`( `(.*)`)?$/.exec(cells.at(-1) ?? '') ?? [];
    return [{ command, status, promised: JSON.parse(body) as Json }];
  });
}

/** Runs one block; gives its standard output. */
async function runBlock({ language, text, line }: Block): Promise<string> {
  const file = path.join(folder, `block-${line}.${EXTENSIONS[language]}`);
  await writeFile(file, language === 'sh' ? shellScript(forTest(text)) : forTest(text));
  const [program = '', ...args] = commandFor(language, file);
  const env = { ...process.env, CURL_HOME: folder, WEBHOOK_SECRET, NODE_OPTIONS: '' };
  const { stdout } = await promisify(execFile)(program, args, { cwd: folder, env, encoding: 'utf8' });
  return stdout;
}

/** A script of a block that keeps its variables for the blocks that follow. */
function shellScript(text: string): string {
  const names = [...text.matchAll(/^([A-Z_]+)=/gm)].map(([, name]) => name);
  const save = names.map((name) => `declare -p ${name} >> variables\n`).join('');
  return `${PRELUDE}\n${text}\n${save}`;
}

const EXTENSIONS: Record<string, string> = { sh: 'sh', js: 'mjs', ts: 'ts', python: 'py' };

function commandFor(language: string, file: string): string[] {
  if (language === 'sh') return ['bash', file];
  if (language !== 'python') return [process.execPath, file];
  return hasProgram('python3', '-c', 'import requests') ? ['python3', file] : ['python3', '-m', 'py_compile', file];
}

async function startInBackground({ text, line }: Block): Promise<{ child: ChildProcess; output: string }> {
  const file = path.join(folder, `block-${line}.mjs`);
  await writeFile(file, forTest(text));
  const child = spawn(process.execPath, [file], {
    cwd: folder,
    env: { ...process.env, WEBHOOK_SECRET, NODE_OPTIONS: '' },
  });
  const started = { child, output: '' };
  child.stdout.on('data', (chunk) => {
    started.output += chunk;
  });
  child.stderr.pipe(process.stderr);
  return started;
}

/** The addresses of the documents become those of the test. */
function forTest(text: string): string {
  return text.replaceAll('http://127.0.0.1:3000', service.url).replaceAll('8080', receiverPort);
}

/** The last document of JSON that a block printed. */
function lastJson(output: string): Json {
  const start = output.lastIndexOf('\n{') + 1;
  return JSON.parse(output.slice(start));
}

/** The answer has every member that the document shows, of the same type. */
function expectShape(answer: Json, shown: Json, at = ''): void {
  expect([at, typeof answer]).toEqual([at, typeof shown]);
  if (typeof shown !== 'object' || shown === null) return;
  for (const [name, value] of Object.entries(shown)) {
    expect([at, Object.keys(answer)]).toEqual([at, expect.arrayContaining([name])]);
    expectShape(answer[name], value, `${at}.${name}`);
  }
}
