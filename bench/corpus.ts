import { mkdir, readdir, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import sharp from 'sharp';
import { compiledCodeFolder } from '../converter/sandbox/compiled-code.ts';
import { detectIsolation } from '../converter/sandbox/isolation/detect.ts';
import { SandboxPool } from '../converter/sandbox/pool.ts';
import { ORDINARY_MB } from '../jobs/shape.ts';
import type { PdfEngine } from '../jobs/task.ts';
import { createLogger } from '../runtime/log.ts';
import { bench, folder, say, signal } from './bench.ts';
import { convertFile } from './corpus/convert.ts';
import { examine } from './corpus/examine.ts';
import { Report } from './corpus/report.ts';
import { findTools, type Tool } from './corpus/tools.ts';
import { describeMachine } from './table.ts';

/**
 * `npm run test:corpus -- DIR`: fidelity. Converts page 1 of every PDF in a folder, compares it with poppler and mutool,
 * and writes a report. Prints Markdown. Fails when a page is lost, takes more than 60 s, or too many are outliers.
 */
const USAGE = `usage: npm run test:corpus -- DIR [--pages first|all] [--out REPORT_DIR] [--engine pdfium|pdf-to-img]
  [--jobs N] [--dpi N] [--max-outliers N]`;
const DEFAULT_OUT = path.join('scratch', 'corpus-report');
const SAY_EVERY = 50;

interface Options {
  directory: string;
  out: string;
  pages: 'first' | 'all';
  engine: PdfEngine;
  jobs: number;
  dpi: number;
  maxOutliers: number;
}

await bench(async () => {
  const options = readOptions(process.argv.slice(2));
  const names = await listPdfs(options.directory);
  if (names.length === 0) throw new Error(`DIR: ${options.directory} has no PDF`);
  // Pictures are large and read once, and other processes need the cores.
  sharp.cache(false);
  sharp.concurrency(1);
  const tools = findTools();
  const report = await Report.open(options.out, tools);
  const pool = new SandboxPool({
    keep: options.jobs,
    roomMb: () => options.jobs * ORDINARY_MB,
    workFolder: folder,
    cacheFolder: compiledCodeFolder(folder),
    tasksModule: undefined,
    hidden: [],
    isolation: await detectIsolation({ from: 'memory' }),
    log: createLogger('silent', {}),
  });
  say(`${names.length} files`);
  let notice: string | null = 'Stopped before the last file: this report is not complete.';
  try {
    await measureAll(names, { options, tools, pool, report });
    notice = null;
  } finally {
    await pool.close();
    const title = `Fidelity of ${names.length} files`;
    await report.close(title, [`engine asked first: ${options.engine}`, ...describe(tools)], notice);
  }
  const { summary } = report;
  const machine = describeMachine({ 'Node.js': process.versions.node, ...versionsOf(tools) });
  process.stdout.write(`${machine}\n${toMarkdown(summary.lines())}\nReport: ${options.out}/index.html\n`);
  if (!summary.passes(options.maxOutliers)) process.exitCode = 1;
});

interface Parts {
  options: Options;
  tools: Tool[];
  pool: SandboxPool;
  report: Report;
}

async function measureAll(names: string[], parts: Parts): Promise<void> {
  const waiting = names.entries();
  const failure = new AbortController();
  const work = async () => {
    // The workers share one iterator, so that each file is taken once.
    for (const [index, name] of waiting) {
      failure.signal.throwIfAborted();
      await measureFile(name, String(index), parts, AbortSignal.any([signal, failure.signal]));
      const { files } = parts.report.summary;
      if (files % SAY_EVERY === 0) say(`${files} of ${names.length} files`);
    }
  };
  const workers = Array.from({ length: parts.options.jobs }, () =>
    work().catch((error) => {
      failure.abort(error);
      throw error;
    }),
  );
  // Nothing may run on when the caller cleans up.
  const ends = await Promise.allSettled(workers);
  signal.throwIfAborted();
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
}

async function measureFile(name: string, key: string, parts: Parts, stop: AbortSignal): Promise<void> {
  const { options, tools, pool, report } = parts;
  const file = path.join(options.directory, name);
  const own = path.join(folder, key);
  await mkdir(own);
  try {
    const { pages, engine, dpi } = options;
    const bytes = (await stat(file)).size;
    const results = await convertFile(file, bytes, { pool, picturesFolder: own, engine, pages, dpi, signal: stop });
    for (const result of results) {
      await report.add(await examine(result, { file, name, tools, dpi, folder: own, signal: stop }));
    }
    report.summary.files++;
  } finally {
    await rm(own, { recursive: true, force: true });
  }
}

function readOptions(args: string[]): Options {
  const text = { type: 'string' } as const;
  const flags = { pages: text, out: text, engine: text, jobs: text, dpi: text, 'max-outliers': text };
  const { values, positionals } = parseArgs({ args, allowPositionals: true, options: flags });
  const [directory, ...more] = positionals;
  if (directory === undefined || more.length > 0) throw new Error(USAGE);
  return {
    directory: path.resolve(directory),
    out: path.resolve(values.out ?? DEFAULT_OUT),
    pages: oneOf('pages', values.pages ?? 'first', ['first', 'all']),
    engine: oneOf('engine', values.engine ?? 'pdfium', ['pdfium', 'pdf-to-img']),
    jobs: wholeNumber('jobs', values.jobs ?? '2', 1, 64),
    dpi: wholeNumber('dpi', values.dpi ?? '100', 36, 600),
    maxOutliers: wholeNumber('max-outliers', values['max-outliers'] ?? '0', 0, 1_000_000),
  };
}

function oneOf<T extends string>(name: string, value: string, valid: readonly T[]): T {
  const found = valid.find((each) => each === value);
  if (found === undefined) throw new Error(`--${name}: must be one of ${valid.join(', ')} (got ${value})\n${USAGE}`);
  return found;
}

function wholeNumber(name: string, value: string, least: number, most: number): number {
  const number = Number(value);
  if (Number.isInteger(number) && number >= least && number <= most) return number;
  throw new Error(`--${name}: must be between ${least} and ${most} (got ${value})\n${USAGE}`);
}

/** Every PDF below the folder, by its path from there. */
async function listPdfs(directory: string): Promise<string[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  const pdfs = entries.filter((entry) => !entry.isDirectory() && /\.pdf$/i.test(entry.name));
  return pdfs.map((entry) => path.relative(directory, path.join(entry.parentPath, entry.name))).sort();
}

function versionsOf(tools: Tool[]): Record<string, string | undefined> {
  const version = (name: string) => tools.find((tool) => tool.name === name)?.version;
  return { poppler: version('poppler'), mutool: version('mutool') };
}

function describe(tools: Tool[]): string[] {
  return Object.entries(versionsOf(tools)).map(([name, version]) => `${name}: ${version ?? 'not installed'}`);
}

function toMarkdown(lines: [string, string][]): string {
  const rows = [['What', 'Count'], ['---', '---'], ...lines];
  return rows.map((cells) => `| ${cells.join(' | ')} |\n`).join('');
}
