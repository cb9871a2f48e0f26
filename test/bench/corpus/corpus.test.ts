import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { watch } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import sharp from 'sharp';
import type { PageRow } from '../../../bench/corpus/examine.ts';
import { descendantsOf } from '../../../runtime/process-tree.ts';
import { BLUE, encryptedPdf, makeImage, makePdf, RED } from '../../support/files.ts';
import { findProgram, QUICK_IMPORTS, ROOT } from '../../support/programs.ts';

/** The whole command on small folders, with stand-ins for the other renderers: no test depends on what is installed. */

const PAGE = { width: 200, height: 100, color: RED };

let folder: string;
let temporary: string;
let bin: string;

beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'corpus-test-'));
  temporary = path.join(folder, 'tmp');
  bin = path.join(folder, 'bin');
  for (const made of [temporary, bin, path.join(folder, 'pdf', 'nested')]) {
    await mkdir(made, { recursive: true });
  }
  // Only these are found, and no renderer that this machine may have.
  for (const name of ['cp', 'sleep', 'prlimit', 'setpriv']) {
    const program = findProgram(name);
    if (program !== undefined) await symlink(program, path.join(bin, name));
  }
});

afterEach(async () => {
  // Every run removes its files, also after a failure.
  expect(await readdir(temporary)).toEqual([]);
  await rm(folder, { recursive: true });
});

async function addPdf(name: string, pages = [PAGE]): Promise<void> {
  await writeFile(path.join(folder, 'pdf', name), await makePdf(pages));
}

/** A stand-in for a renderer: it copies one picture wherever it is asked for a page, or does `instead`. */
async function addTool(name: 'pdftoppm' | 'mutool', color: PageColor, instead?: string): Promise<void> {
  const picture = path.join(folder, `${name}.png`);
  // A page of makePdf with 200 x 100 points, at 72 dpi.
  const mark = await makeImage({ width: 20, height: 10, color: [0, 0, 0] });
  const page = sharp(await makeImage({ width: 200, height: 100, color }));
  await page
    .composite([{ input: mark, left: 0, top: 0 }])
    .png()
    .toFile(picture);
  const copy = name === 'mutool' ? `cp ${picture} "$6"` : `for last; do :; done; cp ${picture} "$last.png"`;
  const script = `#!/bin/sh\n[ "$1" = -v ] && echo "${name} version 1.2.3" && exit\n${instead ?? copy}\n`;
  await writeFile(path.join(bin, name), script);
  await chmod(path.join(bin, name), 0o755);
}

type PageColor = NonNullable<NonNullable<Parameters<typeof makeImage>[0]>['color']>;

function start(...args: string[]) {
  const out = path.join(folder, 'report');
  const child = spawn(
    process.execPath,
    [
      '--import',
      QUICK_IMPORTS,
      'bench/corpus.ts',
      path.join(folder, 'pdf'),
      '--out',
      out,
      '--dpi',
      '72',
      '--jobs',
      '1',
      ...args,
    ],
    {
      cwd: ROOT,
      env: { PATH: bin, TMPDIR: temporary, NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      output += chunk;
    });
  }
  const ended = once(child, 'close').then(async ([code]: unknown[]) => {
    const html = await readFile(path.join(out, 'index.html'), 'utf8').catch(() => '');
    const json = await readFile(path.join(out, 'pages.json'), 'utf8').catch(() => '[]');
    const rows: PageRow[] = JSON.parse(json);
    const byName = (a: PageRow, b: PageRow) => a.file.localeCompare(b.file) || (a.page ?? 0) - (b.page ?? 0);
    return { code, output, html, rows: rows.sort(byName) };
  });
  return { child, ended };
}

test('page 1 of every PDF below the folder has a row, drawn or failed', async () => {
  await addPdf('a.pdf', [PAGE, PAGE]);
  await addPdf('nested/b.PDF');
  await writeFile(path.join(folder, 'pdf', 'broken.pdf'), 'no PDF at all');
  await writeFile(path.join(folder, 'pdf', 'locked.pdf'), encryptedPdf('secret'));
  await writeFile(path.join(folder, 'pdf', 'other.txt'), 'not to be converted');
  await addTool('pdftoppm', RED);
  await addTool('mutool', RED);
  const { code, rows, output, html } = await start().ended;
  expect(rows.map(({ file, page, result, code }) => [file, page, result, code])).toEqual([
    ['a.pdf', 1, 'drawn', null],
    ['broken.pdf', null, 'failed', 'corrupt_file'],
    ['locked.pdf', null, 'failed', 'encrypted_pdf'],
    ['nested/b.PDF', 1, 'drawn', null],
  ]);
  expect(rows[0]).toMatchObject({ engine: 'pdfium', width: 200, height: 100, is_other_size: false, is_outlier: false });
  expect(rows[0]?.distance).toBeLessThan(0.02);
  expect(output).toContain('| failed: corrupt_file | 1 |');
  expect(output).toContain('| outliers | 0 |');
  expect(html).toContain('<h2>Outliers (0)</h2>');
  // The stand-ins draw what cannot be opened, too.
  expect(html).toContain('<h2>Failed, though a tool draws it (2)</h2>');
  expect(code).toBe(0);
});

test('all pages of a document that is split into ranges have a row, by the requested engine', async () => {
  await addPdf(
    'long.pdf',
    Array.from({ length: 13 }, () => PAGE),
  );
  const { code, rows } = await start('--pages', 'all', '--engine', 'pdf-to-img').ended;
  expect(rows.map(({ page }) => page)).toEqual(Array.from({ length: 13 }, (_, index) => index + 1));
  expect(new Set(rows.map(({ engine }) => engine))).toEqual(new Set(['pdf-to-img']));
  expect(code).toBe(0);
});

test('a page that both tools draw differently is an outlier and fails the run unless it is allowed', async () => {
  await addPdf('a.pdf');
  await addTool('pdftoppm', BLUE);
  await addTool('mutool', BLUE);
  const failed = await start().ended;
  expect(failed.rows[0]).toMatchObject({ is_outlier: true, tool_distance: 0 });
  expect(failed.output).toContain('| outliers | 1 |');
  expect(failed.html.match(/<img [^>]*data:image\/webp/g)).toHaveLength(3);
  expect(failed.code).toBe(1);
  expect((await start('--max-outliers', '1').ended).code).toBe(0);
});

test('a page on which the tools disagree is no outlier', async () => {
  await addPdf('a.pdf');
  await addTool('pdftoppm', BLUE);
  await addTool('mutool', [0, 255, 0]);
  const { code, rows, html } = await start().ended;
  expect(rows[0]).toMatchObject({ is_outlier: false, distance: 0 });
  expect(html).toContain('<h2>Disputed (1)</h2>');
  expect(code).toBe(0);
});

test('a page of another size is counted', async () => {
  await addPdf('a.pdf', [{ ...PAGE, width: 220 }]);
  await addTool('pdftoppm', RED);
  const { rows, output } = await start().ended;
  expect(rows[0]).toMatchObject({ is_other_size: true });
  expect(output).toContain('| other size than every tool | 1 |');
});

test.each([
  ['one tool', ['mutool'] as const, 'only mutool is installed'],
  ['no tool', [] as const, 'no tool is installed'],
])('with %s the report says that outliers are unknown', async (_, tools, reason) => {
  await addPdf('a.pdf');
  for (const tool of tools) await addTool(tool, BLUE);
  const { code, rows, html } = await start().ended;
  expect(rows[0]).toMatchObject({ result: 'drawn', distance: null, is_outlier: false });
  expect(html).toContain(`Outliers are unknown: ${reason}`);
  expect(code).toBe(0);
});

test('a tool that fails leaves a reason', async () => {
  await addPdf('a.pdf');
  await addTool('pdftoppm', RED, 'exit 3');
  await addTool('mutool', RED, 'echo rubbish > "$6"');
  const { rows } = await start().ended;
  expect(rows[0]?.tools).toMatchObject({
    poppler: { error: 'no picture, exit code 3' },
    mutool: { error: 'its picture cannot be read' },
  });
});

test('SIGINT ends the run with a report of the finished files, and leaves no process', async () => {
  await addPdf('a.pdf');
  await addPdf('b.pdf');
  const sign = path.join(folder, 'signs');
  await mkdir(sign);
  await addTool('pdftoppm', RED, `: > ${sign}/started; exec sleep 1000`);
  const watcher = watch(sign);
  const { child, ended } = start();
  await once(watcher, 'change');
  watcher.close();
  const processes = descendantsOf(child.pid ?? 0);
  expect(processes.length).toBeGreaterThan(1);
  child.kill('SIGINT');
  const { code, output, html } = await ended;
  expect(code).toBe(1);
  expect(output).toContain('stopped by SIGINT');
  expect(html).toContain('this report is not complete');
  expect(processes.filter(isAlive)).toEqual([]);
});

test.each([
  [['--engine', 'other'], '--engine: must be one of pdfium, pdf-to-img (got other)'],
  [['--pages', '3'], '--pages: must be one of first, all (got 3)'],
  [['--jobs', '0'], '--jobs: must be between 1 and 64 (got 0)'],
  [['another'], 'usage: npm run test:corpus'],
])('%j is refused', async (args, message) => {
  const { code, output } = await start(...args).ended;
  expect(output).toContain(message);
  expect(code).toBe(1);
});

test('a folder without a PDF is refused', async () => {
  const { code, output } = await start().ended;
  expect(output).toContain('has no PDF');
  expect(code).toBe(1);
});

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
