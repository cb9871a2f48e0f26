import { mkdir, rm, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import sharp from 'sharp';
import { CONVERTER_MB } from '../runtime/config.ts';
import { bench, folder, say, signal } from './bench.ts';
import { find, IMAGE_MAGICK, MAGICK_POLICY, PDF_COMPETITORS } from './competitors.ts';
import { startBaseline } from './incident/baseline.ts';
import { makeHostileFiles } from './incident/hostile-files.ts';
import { canReadMemory } from './incident/memory.ts';
import { makeNormalFiles } from './incident/normal-files.ts';
import { compare, listFigures, listReasons, perMinute, type Runs } from './incident/report.ts';
import { type Arrival, type Run, runTraffic, type System } from './incident/run.ts';
import { startSheetmill } from './incident/sheetmill.ts';
import { makeTraffic, type Upload } from './incident/traffic.ts';
import { describeMachine, toMarkdown } from './table.ts';

/**
 * `npm run bench:incident`: traffic with a few hostile files in it, through a baseline of worker processes and through this
 * service, with the same total memory. Prints Markdown. INCIDENT_UPLOADS makes it shorter, INCIDENT_SEED another.
 */
const UPLOADS = Number(process.env.INCIDENT_UPLOADS ?? 2_000);
const SEED = Number(process.env.INCIDENT_SEED ?? 1);
/** Latency needs fewer uploads than throughput. */
const OPEN_UPLOADS = Math.min(UPLOADS, Math.max(60, Math.round(UPLOADS / 3)));

const MEMORY_MB = 2_048;
const AT_ONCE_PER_WORKER = 4;

/** The time limit of a run, well above the slowest run, for each upload and for the hostile files at the end. */
const LIMIT = { secondsEach: 1, tailSeconds: 300 };

const cores = availableParallelism();
const began = performance.now();

await bench(async () => {
  if (!canReadMemory()) throw new Error('this needs Linux: memory is read from /proc/PID/smaps_rollup');
  say('making files');
  const files = path.join(folder, 'files');
  await mkdir(files);
  const normalFiles = await makeNormalFiles(files, SEED);
  const hostileFiles = await makeHostileFiles(files, signal);
  const traffic = makeTraffic(SEED, UPLOADS, normalFiles, hostileFiles, { everyKind: true });
  const openTraffic = makeTraffic(SEED + 1, OPEN_UPLOADS, normalFiles, hostileFiles, { everyKind: false });
  const calmTraffic = openTraffic.filter(({ hostileKind }) => hostileKind === undefined);

  const programs = findPrograms();
  const clients = { clients: cores * AT_ONCE_PER_WORKER };
  const theirClosed =
    programs && (await run('baseline, closed loop', () => startBaselineSystem(programs), traffic, clients));
  const closed = await run('sheetmill, closed loop', startOurs, traffic, clients);
  const half = { perMinute: perMinute(closed) / 2 };
  const open = await run('sheetmill, open loop', startOurs, openTraffic, half);
  const calm = await run('sheetmill, open loop without hostile uploads', startOurs, calmTraffic, half);
  const theirOpen =
    programs && (await run('baseline, open loop', () => startBaselineSystem(programs), openTraffic, half));

  const ours: Runs = { closed, open, openWithoutHostile: calm };
  const other = theirClosed && theirOpen && { closed: theirClosed, open: theirOpen };
  const columns = {
    'baseline, closed loop': theirClosed,
    'sheetmill, closed loop': closed,
    'baseline, open loop': theirOpen,
    'sheetmill, open loop': open,
  };
  const { sharp: sharpVersion, vips } = sharp.versions;
  const machine = describeMachine({
    'Node.js': process.versions.node,
    sharp: `${sharpVersion} (libvips ${vips})`,
    ImageMagick: programs?.image.version,
    Ghostscript: programs?.pdf.version,
    'Memory of each way': `${MEMORY_MB} MB; sheetmill: ${CONVERTER_MB} for the converter; baseline: ${cores} workers`,
    Arrivals: `open loop ${half.perMinute.toFixed(0)} a minute, closed loop ${clients.clients} at a time; seed ${SEED}`,
    'Time of the whole bench': `${((performance.now() - began) / 60_000).toFixed(0)} minutes`,
  });
  const figures = listFigures({ ...columns, 'sheetmill, open loop, no hostile uploads': calm });
  process.stdout.write(`${machine}\n${toMarkdown(compare(ours, other))}\n${figures}\n${listReasons(columns)}`);
});

type Programs = NonNullable<ReturnType<typeof findPrograms>>;

function findPrograms() {
  const image = find(IMAGE_MAGICK);
  const [ghostscript] = PDF_COMPETITORS.filter(({ name }) => name === 'Ghostscript');
  const pdf = ghostscript && find(ghostscript);
  if (image && pdf) return { image, pdf };
  say('no comparison with the baseline: it needs ImageMagick and Ghostscript');
  return undefined;
}

async function startBaselineSystem(programs: Programs): Promise<System> {
  process.env.MAGICK_CONFIGURE_PATH = path.join(folder, 'magick');
  await mkdir(process.env.MAGICK_CONFIGURE_PATH, { recursive: true });
  await writeFile(path.join(process.env.MAGICK_CONFIGURE_PATH, 'policy.xml'), MAGICK_POLICY);
  return startBaseline({
    workers: cores,
    atOnce: AT_ONCE_PER_WORKER,
    workerMb: MEMORY_MB / cores,
    programs,
    folder: path.join(folder, 'baseline'),
  });
}

function startOurs(): Promise<System> {
  return startSheetmill({
    folder: path.join(folder, 'sheetmill'),
    cores,
    capacityMb: MEMORY_MB - CONVERTER_MB,
    signal,
    say,
  });
}

/** Each run has a new system, so that the run before has no effect. */
async function run(name: string, start: () => Promise<System>, traffic: Upload[], arrival: Arrival): Promise<Run> {
  say(`${name}: starting`);
  const system = await start();
  const arrivalSeconds = 'perMinute' in arrival ? ((traffic.at(-1)?.at ?? 0) / arrival.perMinute) * 60 : 0;
  const limitSeconds = arrivalSeconds + LIMIT.secondsEach * traffic.length + LIMIT.tailSeconds;
  try {
    const done = await runTraffic(system, traffic, arrival, {
      limitSeconds,
      signal,
      say: (line) => say(`${name}: ${line}`),
    });
    // Printed immediately, so that a stopped bench leaves its figures.
    say(`${name}: done\n${listFigures({ [name]: done })}\n${listReasons({ [name]: done })}`);
    return done;
  } finally {
    await system.stop();
    await rm(path.join(folder, 'sheetmill'), { recursive: true, force: true });
  }
}
