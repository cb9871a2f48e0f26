import { existsSync } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import path from 'node:path';
import type { ConversionContext } from '../conversion/conversion-task.ts';
import type { PrivateFolder } from '../converter/files/private-folder.ts';
import { openPdf } from '../converter/render/engines/fallback.ts';
import { estimateImage } from '../converter/render/estimate-image.ts';
import { estimatePages } from '../converter/render/estimate-pdf.ts';
import { inspectImage } from '../converter/render/inspect-image.ts';
import { detectIsolation } from '../converter/sandbox/isolation/detect.ts';
import { SandboxPool } from '../converter/sandbox/pool.ts';
import { MAX_CLASS_MB, memoryClass } from '../jobs/shape.ts';
import { createLogger } from '../runtime/log.ts';
import { bench, folder, say, signal } from './bench.ts';
import { writeLargeImages } from './inputs.ts';
import { describeMachine, type Row, toMarkdown } from './table.ts';

/**
 * `npm run bench:memory`: estimates of memory against the memory that sandboxes use, for every image of the corpus, pages
 * of every PDF, and generated large files. Prints Markdown. BENCH_CORPUS names the folder with `pdf` and `image`.
 */
const CORPUS = path.resolve(import.meta.dirname, '..', process.env.BENCH_CORPUS ?? '../shared/corpus');
const MAX_PAGES = 10;
const DPI = 200;
const DEADLINE_MS = 120_000;
/** Sandboxes of this size are used again, as in the service. A page that needs more is repeated with the largest class. */
const ORDINARY_MB = 512;
const LIMITS = { maxPages: 5000, maxPixels: 1e9, stepSeconds: DEADLINE_MS / 1000, firstEngine: 'pdfium' } as const;

interface Measured {
  what: string;
  estimateMb: number;
  peakMb: number;
}

const pool = new SandboxPool({
  keep: 1,
  roomMb: () => ORDINARY_MB,
  workFolder: folder,
  cacheFolder: path.join(folder, 'cache'),
  tasksModule: undefined,
  hidden: [],
  isolation: await detectIsolation({ from: 'memory' }),
  log: createLogger('silent', {}),
});
await bench(async () => {
  try {
    const generated = path.join(folder, 'generated');
    await mkdir(generated);
    say('making large files');
    await writeLargeImages(generated);
    const corpus = [...(await filesIn(path.join(CORPUS, 'image'))), ...(await filesIn(path.join(CORPUS, 'pdf')))];
    if (corpus.length === 0) say(`${CORPUS} is missing: only generated files`);
    const ofCorpus = await measureAll(corpus);
    const ofGenerated = await measureAll(await filesIn(generated));
    process.stdout.write(`${describeMachine({ 'Node.js': process.versions.node })}\n`);
    process.stdout.write(toMarkdown([...summary('corpus', ofCorpus), ...summary('generated files', ofGenerated)]));
    process.stdout.write(`\n${worst([...ofCorpus, ...ofGenerated])}\n${table(ofGenerated)}`);
  } finally {
    await pool.close();
  }
});

async function filesIn(directory: string): Promise<string[]> {
  if (!existsSync(directory)) return [];
  return (await readdir(directory)).sort().map((name) => path.join(directory, name));
}

async function measureAll(files: string[]): Promise<Measured[]> {
  const all: Measured[] = [];
  for (const file of files) {
    say(path.basename(file));
    // A file that cannot be read is not measured.
    const planned = await plan(file).catch(() => []);
    for (const { page, estimateMb } of planned) {
      const peakMb = await peakOf(file, page);
      const what = planned.length > 1 ? `${path.basename(file)}, page ${page}` : path.basename(file);
      if (peakMb !== null) all.push({ what, estimateMb, peakMb });
    }
  }
  return all;
}

async function plan(file: string): Promise<{ page: number; estimateMb: number }[]> {
  if (!file.endsWith('.pdf')) return [{ page: 1, estimateMb: estimateImage(await inspectImage(file)) }];
  const inspection = {
    input: file,
    password: null,
    failedSteps: [],
    limits: LIMITS,
    step: () => undefined,
    log: () => undefined,
  };
  const document = await openPdf(inspection);
  try {
    const boxes: { page: number; width: number; height: number }[] = [];
    for (let page = 1; page <= Math.min(document.pageCount, MAX_PAGES); page++) {
      boxes.push({ page, ...(await document.pageBox(page)) });
    }
    const estimates = await estimatePages(inspection, boxes, DPI);
    return estimates.map(({ page, memoryMb }) => ({ page, estimateMb: memoryMb }));
  } finally {
    await document.close();
  }
}

/** Returns null when no page was converted. */
async function peakOf(file: string, page: number): Promise<number | null> {
  for (const memoryMb of [ORDINARY_MB, MAX_CLASS_MB]) {
    const lease = pool.lease(memoryMb, null);
    let made = false;
    const isPdf = file.endsWith('.pdf');
    const media_type = isPdf ? 'application/pdf' : file.endsWith('.png') ? 'image/png' : 'image/jpeg';
    const prepare = async (own: PrivateFolder) => ({
      type: 'convert_range',
      payload: { upload_id: 'bench', original: 1, path: file, media_type, dpi: DPI, pages: [[page, page]] },
      attempt: 1,
      files: { originals: [], pages: [] },
      input: await own.copyIn(file),
      password: null,
      dependencies: [],
      settledPages: [],
      failedSteps: [] as ConversionContext<unknown>['failedSteps'],
      reservation: { cpuUnits: 1, memoryMb },
      limits: LIMITS,
      outputFolder: own.output,
    });
    const { outcome, peakMemoryMb } = await lease.run(prepare, {
      deadlineMs: DEADLINE_MS,
      signal,
      onEvent: (event) => {
        made ||= event.kind === 'page' && event.report.status === 'completed';
      },
    });
    lease.release();
    pool.refill();
    if (outcome.kind === 'completed') return made ? peakMemoryMb : null;
  }
  return null;
}

function summary(what: string, measured: Measured[]): Row[] {
  if (measured.length === 0) return [];
  const under = measured.filter(({ estimateMb, peakMb }) => peakMb > estimateMb).length;
  const over = measured.filter(({ estimateMb, peakMb }) => peakMb > memoryClass(estimateMb)).length;
  const ratios = measured.map(({ estimateMb, peakMb }) => estimateMb / peakMb).sort((a, b) => a - b);
  const of = `of ${measured.length} pages and images`;
  return [
    { what: `${what}: under-estimated`, ours: `${under}`, other: of, ratio: under / measured.length, most: 0.01 },
    {
      what: `${what}: over their class of memory`,
      ours: `${over}`,
      other: of,
      ratio: over / measured.length,
      most: 0.01,
    },
    {
      what: `${what}: estimate against peak, median`,
      ours: `${median(measured.map(({ estimateMb }) => estimateMb)).toFixed(0)} MB`,
      other: `${median(measured.map(({ peakMb }) => peakMb)).toFixed(0)} MB`,
      ratio: median(ratios),
      most: 1.4,
    },
  ];
}

/** The five tightest estimates. */
function worst(measured: Measured[]): string {
  const tight = measured.toSorted((a, b) => a.estimateMb / a.peakMb - b.estimateMb / b.peakMb).slice(0, 5);
  return `The tightest estimates:\n\n${table(tight)}`;
}

function table(measured: Measured[]): string {
  const cells = measured.map(({ what, estimateMb, peakMb }) => [
    what,
    estimateMb.toFixed(0),
    String(peakMb),
    (estimateMb / peakMb).toFixed(2),
  ]);
  return [['What', 'Estimate in MB', 'Peak in MB', 'Ratio'], Array(4).fill('---'), ...cells]
    .map((line) => `| ${line.join(' | ')} |\n`)
    .join('');
}

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}
