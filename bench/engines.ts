import { type ChildProcess, fork } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import pixelmatch from 'pixelmatch';
import { openWithPdfToImg } from '../converter/render/engines/pdf-to-img/document.ts';
import { openWithPdfium } from '../converter/render/engines/pdfium/document.ts';
import { writeTextPdf } from './inputs.ts';
import { describeMachine } from './table.ts';

/**
 * `npm run bench:engines`: draws the first pages of every document with both PDF engines, each document and engine in a
 * process of its own, and compares speed and pixels. Prints Markdown. BENCH_CORPUS names the folder of the documents.
 */
const CORPUS = path.resolve(import.meta.dirname, '..', process.env.BENCH_CORPUS ?? '../shared/corpus/pdf');
const ENGINES = { 'pdf-to-img': openWithPdfToImg, PDFium: openWithPdfium };
const PAGES = 3;
const DPI = 100;
const LIMIT_SECONDS = 30;
/** The share of a page's pixels that may look different before the page is listed. */
const LISTED_SHARE = 0.005;
/** Darkest value that still counts as an empty page. */
const PAPER = 250;

type Engine = keyof typeof ENGINES;

interface Drawn {
  page: number;
  ms: number;
  width: number;
  height: number;
}

/** What became of one document: pages drawn, in order, and why there are no more of them. */
interface Result {
  opened: boolean;
  drawn: Drawn[];
  error: string | null;
}

const [, , engine, ...files] = process.argv;
if (process.send) await drawFile(engine as Engine, files as [string, string, string]);
else await compareEngines();

/** In the child: warms up on one file, then draws the other, and leaves raw pixels in the folder. */
async function drawFile(engine: Engine, [warmUp, file, folder]: [string, string, string]): Promise<void> {
  await drawPages(engine, warmUp, async () => {});
  const result: Result = { opened: false, drawn: [], error: null };
  const tell = () => new Promise((resolve) => process.send?.(result, resolve));
  try {
    await drawPages(engine, file, async (drawn, data) => {
      result.opened = true;
      if (drawn === null) return;
      result.drawn.push(drawn);
      await writeFile(rasterOf(folder, engine, file, drawn.page), data);
      await tell();
    });
  } catch (error) {
    result.error = (error as { code?: string }).code ?? String(error);
  }
  await tell();
  process.exit();
}

/** Calls back once the file is open, and then with each page. */
async function drawPages(
  engine: Engine,
  file: string,
  onPage: (drawn: Drawn | null, data: Uint8Array) => Promise<void>,
): Promise<void> {
  const document = await ENGINES[engine](file, null);
  await onPage(null, new Uint8Array());
  for (let page = 1; page <= Math.min(PAGES, document.pageCount); page++) {
    const began = performance.now();
    const { data, width, height } = await document.render(page, DPI / 72);
    await onPage({ page, ms: performance.now() - began, width, height }, data);
  }
  await document.close();
}

async function compareEngines(): Promise<void> {
  const folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-engines-'));
  const children = new Set<ChildProcess>();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.on(name, () => {
      for (const child of children) child.kill('SIGKILL');
      process.exitCode = 1;
    });
  }
  try {
    const warmUp = path.join(folder, 'warm-up.pdf');
    await writeTextPdf(warmUp, PAGES);
    const names = existsSync(CORPUS) ? (await readdir(CORPUS)).filter((name) => name.endsWith('.pdf')).sort() : [];
    if (names.length === 0) throw new Error(`no documents in ${CORPUS}`);
    const results: Record<Engine, Result[]> = { 'pdf-to-img': [], PDFium: [] };
    const rows: string[][] = [];
    for (const name of names) {
      if (process.exitCode) return;
      process.stderr.write(`bench: ${name}\n`);
      const file = path.join(CORPUS, name);
      for (const engine of Object.keys(ENGINES) as Engine[]) {
        results[engine].push(await drawInChild([engine, warmUp, file, folder], children));
      }
      const [first, second] = [results['pdf-to-img'].at(-1), results.PDFium.at(-1)] as [Result, Result];
      rows.push(...(await comparePages(folder, file, first, second)));
      for (const raster of await readdir(folder)) if (raster.endsWith('.rgba')) await rm(path.join(folder, raster));
    }
    process.stdout.write(`${describeMachine({ 'Node.js': process.versions.node })}\n${toTable(summarise(results))}\n`);
    process.stdout.write(toTable([['Page', 'Pixels that differ', 'pdf-to-img', 'PDFium'], ...rows.sort(byShare)]));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function drawInChild(args: string[], children: Set<ChildProcess>): Promise<Result> {
  return new Promise((resolve) => {
    let result: Result = { opened: false, drawn: [], error: null };
    let late = false;
    const child = fork(import.meta.filename, args);
    children.add(child);
    const timer = setTimeout(() => {
      late = true;
      child.kill('SIGKILL');
    }, LIMIT_SECONDS * 1_000);
    child.on('message', (message) => {
      result = message as Result;
    });
    child.on('exit', (code, signal) => {
      clearTimeout(timer);
      children.delete(child);
      const death = late ? `longer than ${LIMIT_SECONDS} s` : `died: ${signal ?? code}`;
      resolve(code === 0 ? result : { ...result, error: death });
    });
  });
}

/** A line for each page that looks different, or that one engine alone drew. */
async function comparePages(folder: string, file: string, first: Result, second: Result): Promise<string[][]> {
  const rows: string[][] = [];
  for (let page = 1; page <= Math.max(first.drawn.length, second.drawn.length, 1); page++) {
    const name = `${path.basename(file)}, ${page}`;
    const [one, other] = [first.drawn[page - 1], second.drawn[page - 1]];
    if (!one || !other) {
      const outcomes = [one ? 'drawn' : (first.error ?? 'no page'), other ? 'drawn' : (second.error ?? 'no page')];
      if (one || other || first.error !== second.error) rows.push([name, '', ...outcomes]);
      continue;
    }
    const [a, b] = [
      await readFile(rasterOf(folder, 'pdf-to-img', file, page)),
      await readFile(rasterOf(folder, 'PDFium', file, page)),
    ];
    if (one.width !== other.width || one.height !== other.height) {
      rows.push([name, 'all', `${one.width} x ${one.height}`, `${other.width} x ${other.height}`]);
      continue;
    }
    const share = pixelmatch(a, b, null, one.width, one.height) / (one.width * one.height);
    if (share < LISTED_SHARE && isBlank(a) === isBlank(b)) continue;
    rows.push([name, `${(share * 100).toFixed(2)}%`, describeInk(a), describeInk(b)]);
  }
  return rows;
}

function rasterOf(folder: string, engine: Engine, file: string, page: number): string {
  return path.join(folder, `${path.basename(file)}-${page}-${engine}.rgba`);
}

function isBlank(pixels: Buffer): boolean {
  return pixels.every((value) => value >= PAPER);
}

function describeInk(pixels: Buffer): string {
  return isBlank(pixels) ? 'blank' : 'not blank';
}

function summarise(results: Record<Engine, Result[]>): string[][] {
  const rows = Object.entries(results).map(([engine, documents]) => {
    const times = documents.flatMap(({ drawn }) => drawn.map(({ ms }) => ms)).sort((a, b) => a - b);
    return [
      engine,
      String(documents.length),
      String(documents.filter(({ opened }) => opened).length),
      String(documents.filter(({ error }) => error === null).length),
      String(times.length),
      `${times[Math.floor(times.length / 2)]?.toFixed(1)} ms`,
      `${times[Math.floor(times.length * 0.9)]?.toFixed(1)} ms`,
      `${(times.reduce((sum, ms) => sum + ms, 0) / 1_000).toFixed(1)} s`,
    ];
  });
  return [['Engine', 'Documents', 'Opened', 'Drawn', 'Pages', 'Median', '90th percentile', 'In all'], ...rows];
}

function toTable([head = [], ...rows]: string[][]): string {
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |\n`).join('');
}

/** What one engine alone drew comes first, then what differs most. */
function byShare([, one = '']: string[], [, other = '']: string[]): number {
  const rank = (share: string) => (share === '' || share === 'all' ? 100 : Number.parseFloat(share));
  return rank(other) - rank(one);
}
