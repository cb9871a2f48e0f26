import { openAsBlob } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parse } from 'yaml';
import { type Autoscaler, createAutoscaler, SYNC_SECONDS } from './autoscale/hpa.ts';
import { bench, folder, say, signal } from './bench.ts';
import { writeTextPdf } from './inputs.ts';
import { cpuSecondsOf, treesOf } from './processes.ts';
import { type Service, startService } from './service.ts';
import { describeMachine, toMarkdown } from './table.ts';

/**
 * `npm run bench:autoscale`: a burst of PDFs for one converter, for one converter per core, and for an autoscaler that
 * scales between them by deploy/base/autoscaler.yaml and the measured CPU. Each converter has one core. Prints Markdown.
 * Takes about ten minutes; AUTOSCALE_DOCUMENTS makes the burst smaller.
 */
const DOCUMENTS = Number(process.env.AUTOSCALE_DOCUMENTS ?? 60);
/** The CPU request of a converter, in cores; less than one on a busy machine. */
const REQUEST = Number(process.env.AUTOSCALE_REQUEST ?? 1);
const PAGES = 20;
const POLL_MS = 500;
/** Longer than a run on a slow machine, the delay before scaling down included. */
const LIMIT_SECONDS = 1_800;
const cores = availableParallelism();
const manifest = new URL('../deploy/base/autoscaler.yaml', import.meta.url);

await bench(async () => {
  const file = path.join(folder, 'document.pdf');
  await writeTextPdf(file, PAGES);
  const rules = readAutoscaler(await readFile(manifest, 'utf8'));
  const one = await run('one converter', file, { ...rules, minReplicas: 1, maxReplicas: 1 });
  const all = await run(`${cores} converters`, file, { ...rules, minReplicas: cores, maxReplicas: cores });
  const scaled = await run('autoscaled', file, { ...rules, maxReplicas: cores });
  const work = `${DOCUMENTS} PDFs of ${PAGES} pages at once; 1 to ${cores} converters of one core, of which they ask for ${REQUEST}`;
  process.stdout.write(describeMachine({ 'Node.js': process.versions.node, Work: work }));
  const seconds = (run: Run) => `${run.drained.toFixed(0)} s`;
  const cost = (run: Run) => `${run.converterSeconds.toFixed(0)} s`;
  process.stdout.write(
    toMarkdown([
      {
        what: 'Time to drain: autoscaled against one',
        ours: seconds(scaled),
        other: seconds(one),
        ratio: scaled.drained / one.drained,
      },
      {
        what: `Time to drain: autoscaled against ${cores}`,
        ours: seconds(scaled),
        other: seconds(all),
        ratio: scaled.drained / all.drained,
      },
      {
        what: `Converter-seconds until drained: autoscaled against ${cores}`,
        ours: cost(scaled),
        other: cost(all),
        ratio: scaled.converterSeconds / all.converterSeconds,
      },
    ]),
  );
  process.stdout.write(
    `\nConverters of the autoscaled run: ${scaled.steps.map(({ at, replicas }) => `${replicas} from ${at.toFixed(0)} s`).join(', ')}.\n`,
  );
});

interface Run {
  /** Seconds from the burst to its end. */
  drained: number;
  /** The seconds that all converters ran until then. */
  converterSeconds: number;
  steps: { at: number; replicas: number }[];
}

/** Sends the burst to a new service, and waits until the autoscaler is back at its minimum. */
async function run(name: string, file: string, rules: Autoscaler): Promise<Run> {
  say(`${name}: starting`);
  const service = await startService(path.join(folder, 'data'), 1, signal, { CAPACITY_MEMORY_MB: '1024' });
  const pods: (Awaited<ReturnType<Service['startOtherConverter']>> & { cpu: number })[] = [];
  const scaleTo = async (replicas: number) => {
    while (pods.length < replicas) pods.push({ ...(await service.startOtherConverter()), cpu: 0 });
    await Promise.all(pods.splice(replicas).map(({ stop }) => stop()));
  };
  try {
    await scaleTo(rules.minReplicas);
    const autoscaler = createAutoscaler(rules);
    const steps = [{ at: 0, replicas: pods.length }];
    const began = performance.now();
    const now = () => (performance.now() - began) / 1000;
    measure(pods);
    await sendBurst(service.url, file);
    let drained: number | undefined;
    let converterSeconds = 0;
    let measured = 0;
    for (let last = 0; ; ) {
      await delay(POLL_MS, undefined, { signal });
      const at = now();
      if (at > LIMIT_SECONDS) throw new Error(`${name}: not drained within ${LIMIT_SECONDS} s`);
      if (drained === undefined) converterSeconds += pods.length * (at - last);
      last = at;
      const left = await countUnfinished(service);
      if (left === 0) drained ??= at;
      if (drained !== undefined && pods.length === rules.minReplicas) break;
      if (at - measured < SYNC_SECONDS) continue;
      const percents = measure(pods).map((seconds) => Math.round((seconds / (at - measured) / REQUEST) * 100));
      measured = at;
      say(`${name}: ${left} left after ${at.toFixed(0)} s, CPU ${percents.join(' and ')}%`);
      const replicas = autoscaler.decide(at, pods.length, percents);
      if (replicas === pods.length) continue;
      steps.push({ at, replicas });
      await scaleTo(replicas);
      // The share of one that has just started is of a whole round, as that of the others.
      measure(pods);
      measured = now();
    }
    say(`${name}: drained after ${drained.toFixed(0)} s`);
    return { drained, converterSeconds, steps };
  } finally {
    await service.stop();
    await rm(path.join(folder, 'data'), { recursive: true, force: true });
  }
}

async function sendBurst(url: string, file: string): Promise<void> {
  const blob = await openAsBlob(file);
  const waiting = Array.from({ length: DOCUMENTS }).values();
  const client = async () => {
    for (const _ of waiting) {
      const form = new FormData();
      form.append('file', blob, 'document.pdf');
      const response = await fetch(`${url}/uploads`, { method: 'POST', body: form, signal });
      if (!response.ok) throw new Error(`upload refused: ${response.status} ${await response.text()}`);
      await response.arrayBuffer();
    }
  };
  await Promise.all([client(), client(), client(), client()]);
}

async function countUnfinished({ pool }: Service): Promise<number> {
  const { rows } = await pool.query(
    `select count(*) filter (where finished_at is null)::int as unfinished,
       count(*) filter (where status in ('failed', 'cancelled'))::int as failed from uploads`,
  );
  if (rows[0].failed > 0) throw new Error(`${rows[0].failed} uploads failed`);
  return rows[0].unfinished;
}

/** CPU seconds of each converter with its descendants, since the last call. */
function measure(pods: { pid: number; cpu: number }[]): number[] {
  const trees = treesOf(pods.map(({ pid }) => pid));
  return pods.map((pod) => {
    const before = pod.cpu;
    pod.cpu = cpuSecondsOf(trees.get(pod.pid) ?? []);
    return pod.cpu - before;
  });
}

function readAutoscaler(yaml: string): Autoscaler {
  const { minReplicas, maxReplicas, metrics, behavior } = parse(yaml).spec;
  return { minReplicas, maxReplicas, targetPercent: metrics[0].resource.target.averageUtilization, ...behavior };
}
