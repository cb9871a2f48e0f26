import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import sharp from 'sharp';
import { bench, folder, say, signal } from './bench.ts';
import { convertBy, find, IMAGE_MAGICK, type Installed, MAGICK_POLICY, PDF_COMPETITORS } from './competitors.ts';
import { writeLargeJpeg, writeScan, writeTextPdf } from './inputs.ts';
import { type Service, startService } from './service.ts';
import { describeMachine, type Row, toMarkdown } from './table.ts';

/**
 * `npm run bench`: the whole service against competitors, in one run on this machine. Prints Markdown;
 * docs/evaluation_results.md describes the method. BENCH_CORPUS names the folder of the documents.
 */
const CORPUS = path.resolve(import.meta.dirname, '..', process.env.BENCH_CORPUS ?? '../shared/corpus/pdf');
const RUNS = 3;
/** A longer run is not repeated. */
const LONG_RUN_SECONDS = 60;
const IMAGES = 8;
const LATENCY_RUNS = 20;
/** Pauses before the first run and before each other run. */
const FIRST_IDLE_MS = 60_000;
const IDLE_MS = 3_000;

const cores = availableParallelism();
const options = { outputs: path.join(folder, 'outputs'), signal };

await bench(async () => {
  const rows = await compareAll();
  const versions = [...PDF_COMPETITORS, IMAGE_MAGICK].map((competitor) => [competitor.name, find(competitor)?.version]);
  const { sharp: sharpVersion, vips } = sharp.versions;
  const ours = { 'Node.js': process.versions.node, sharp: `${sharpVersion} (libvips ${vips})` };
  process.stdout.write(`${describeMachine({ ...ours, ...Object.fromEntries(versions) })}\n${toMarkdown(rows)}`);
});

async function compareAll(): Promise<Row[]> {
  const service = await startService(path.join(folder, 'data'), cores, signal);
  try {
    const article = path.join(CORPUS, 'tracemonkey.pdf');
    if (!existsSync(article)) say(`${article} is missing: no comparison with text and graphics`);
    return [
      ...(existsSync(article) ? await comparePdf(service, 'Article', article) : []),
      ...(await comparePdf(service, 'Book', await findBook())),
      ...(await measureLatency(service)),
      ...(await compareImages(service)),
    ];
  } finally {
    await service.stop();
  }
}

async function findBook(): Promise<string> {
  const book = path.join(CORPUS, 'freeculture.pdf');
  if (existsSync(book)) return book;
  say(`${book} is missing: 350 pages of generated text instead`);
  const generated = path.join(folder, 'text.pdf');
  await writeTextPdf(generated, 350);
  return generated;
}

async function comparePdf(service: Service, title: string, file: string): Promise<Row[]> {
  say(`${title}: sheetmill`);
  await service.restartConverter();
  const cold = await service.convert(file);
  const warm = await medianSeconds(() => service.convert(file));
  const speeds = { warm: cold.pages / warm, cold: cold.pages / cold.seconds };

  const rows: Row[] = [];
  for (const competitor of PDF_COMPETITORS) {
    const speed = await speedOf(find(competitor), title, file, cold.pages);
    for (const [state, ours] of Object.entries(speeds)) {
      rows.push({
        what: `${title}, ${cold.pages} pages, ${state}`,
        ours: `${ours.toFixed(1)} pages/s`,
        other: speed ? `${competitor.name} ${speed.toFixed(1)} pages/s` : `${competitor.name} is not installed`,
        ratio: speed && ours / speed,
        least: competitor.targets[`${title}, ${state}`],
      });
    }
  }
  return rows;
}

/** Pages per second of one process, after a warm-up run. A long warm-up run is the only one and counts. */
async function speedOf(competitor: Installed | undefined, title: string, file: string, pages: number) {
  if (competitor === undefined) return undefined;
  say(`${title}: ${competitor.name}`);
  const first = await convertBy(competitor, file, options);
  if (first.seconds > LONG_RUN_SECONDS) return pages / first.seconds;
  return pages / (await medianSeconds(() => convertBy(competitor, file, options)));
}

async function compareImages(service: Service): Promise<Row[]> {
  const title = 'JPEG of 100 megapixels';
  const what = `${title}, ${IMAGES} at once`;
  say(`${title}: making it`);
  const file = path.join(folder, 'large.jpg');
  await writeLargeJpeg(file);
  say(`${title}: sheetmill`);
  await service.restartConverter();
  await service.convert(file);
  const ours = await service.convert(file, IMAGES);

  const competitor = find(IMAGE_MAGICK);
  if (competitor === undefined)
    return [{ what, ours: perSecond(ours), other: `${IMAGE_MAGICK.name} is not installed` }];
  process.env.MAGICK_CONFIGURE_PATH = path.join(folder, 'magick');
  await mkdir(process.env.MAGICK_CONFIGURE_PATH);
  await writeFile(path.join(process.env.MAGICK_CONFIGURE_PATH, 'policy.xml'), MAGICK_POLICY);
  const warmUp = await convertBy(competitor, file, options);
  const rows: Row[] = [];
  for (const atOnce of new Set([1, cores])) {
    say(`${title}: ${competitor.name}, processes at a time: ${atOnce}`);
    const theirs = await convertBy(competitor, file, { ...options, count: IMAGES, atOnce });
    rows.push({
      what,
      ours: perSecond(ours),
      other: `${competitor.name}, ${atOnce} at a time, ${perSecond(theirs)}`,
      ratio: theirs.seconds / ours.seconds,
      // The target is for one process at a time.
      ...(atOnce === 1 && { least: competitor.targets.images }),
    });
  }
  rows.push({
    what: `${title}, peak memory of the process that decodes it`,
    ours: `${ours.peakMb} MB`,
    other: `${competitor.name} ${warmUp.peakMb} MB`,
    ratio: warmUp.peakMb ? ours.peakMb / warmUp.peakMb : undefined,
    most: 0.2,
  });
  return rows;
}

/** The time from the POST to the end of an upload, by an idle service. */
async function measureLatency(service: Service): Promise<Row[]> {
  const page = path.join(folder, 'page.pdf');
  await writeTextPdf(page, 1);
  const scan = path.join(folder, 'scan.jpg');
  await writeScan(scan);
  await service.restartConverter();
  const rows: Row[] = [];
  for (const [what, file, medianMs, p95Ms] of [
    ['A page of A4, service idle', page, 150, 250],
    ['A scan of A4 at 300 dpi (JPEG), service idle', scan, 120, undefined],
  ] as const) {
    say(what);
    const times: number[] = [];
    for (let run = 0; run < LATENCY_RUNS; run++) {
      await delay(run === 0 ? FIRST_IDLE_MS : IDLE_MS, undefined, { signal });
      times.push((await service.convert(file)).seconds * 1000);
    }
    times.sort((a, b) => a - b);
    const quantile = (share: number) => times[Math.ceil(share * LATENCY_RUNS) - 1] ?? Number.NaN;
    rows.push({ what: `${what}, median`, ...againstLimit(quantile(0.5), medianMs) });
    if (p95Ms !== undefined) rows.push({ what: `${what}, p95`, ...againstLimit(quantile(0.95), p95Ms) });
  }
  return rows;
}

function againstLimit(ms: number, limitMs: number): Omit<Row, 'what'> {
  return { ours: `${ms.toFixed(0)} ms`, other: `${limitMs} ms`, ratio: ms / limitMs, most: 1 };
}

function perSecond({ seconds }: { seconds: number }): string {
  return `${(IMAGES / seconds).toFixed(2)} images/s`;
}

async function medianSeconds(convert: () => Promise<{ seconds: number }>): Promise<number> {
  const times: number[] = [];
  for (let run = 0; run < RUNS; run++) times.push((await convert()).seconds);
  return times.sort((a, b) => a - b)[Math.floor(RUNS / 2)] ?? Number.NaN;
}
