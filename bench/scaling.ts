import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { bench, folder, say, signal } from './bench.ts';
import { makeInnocents } from './incident/normal-files.ts';
import { createRandom } from './random.ts';
import { type Measured, measure, measureCommits } from './scaling/measure.ts';
import { type Cost, mean, mostPerSecond, predict, simulateQueue, type Work, workSeconds } from './scaling/simulate.ts';
import { startService } from './service.ts';
import { describeMachine } from './table.ts';

/**
 * `npm run bench:scaling`: what uploads, jobs, pages and idle converters take of converters and of Postgres, measured here
 * in one run, and what follows from that for 1 to 200 nodes, computed and simulated. Prints Markdown. Takes about five minutes.
 */
const SEED = Number(process.env.SCALING_SEED ?? 1);
const NODES = [1, 2, 5, 10, 20, 50, 100, 200];
const UNITS_PER_NODE = 2;
const LOAD = 0.7;
const SIMULATED_UPLOADS = 100_000;
const POSTGRES_CORES = 8;

await bench(async () => {
  const { measured, commits } = await run();
  say('simulating');
  process.stdout.write(
    [
      describeMachine({
        'Node.js': process.versions.node,
        Uploads: describeWorks(measured.works),
        Assumed: `${UNITS_PER_NODE} CPU units a node, ${POSTGRES_CORES} cores for Postgres, each as fast as one of this machine; seed ${SEED}`,
      }),
      listCosts(measured),
      `Transactions that end in a second, 16 at a time: ${commits.notifying.toFixed(0)} that notify, ${commits.silent.toFixed(0)} others.\n`,
      listNodes(measured, commits.notifying),
    ].join('\n'),
  );
});

async function run() {
  say('making files');
  const files = path.join(folder, 'files');
  await mkdir(files);
  const innocents = await makeInnocents(files, SEED);
  const TASKS = path.resolve(import.meta.dirname, '../examples/tasks/index.ts');
  // One job at a time, so that each has a core.
  const service = await startService(path.join(folder, 'data'), 1, signal, { TASKS, CAPACITY_MEMORY_MB: '1024' }, [
    'shared_preload_libraries=pg_stat_statements',
  ]);
  try {
    const measured = await measure(service, innocents, { signal, say });
    await service.stopConverter();
    say('commits');
    return { measured, commits: await measureCommits(service.databaseUrl) };
  } finally {
    await service.stop();
  }
}

function describeWorks(works: Work[]): string {
  const jobs = mean(works.map(({ partSeconds }) => 1 + partSeconds.length));
  const pages = mean(works.map((work) => work.pages));
  const seconds = mean(works.map(workSeconds));
  return `${works.length} (3 in 5 images, 2 in 5 PDFs), on average ${jobs.toFixed(1)} jobs, ${pages.toFixed(1)} pages and ${seconds.toFixed(2)} s of a converter's CPU`;
}

function listCosts({ costs, jobs, connections }: Measured): string {
  const row = (what: string, { statements, seconds, commits }: Cost) => [
    what,
    statements.toFixed(1),
    (seconds * 1000).toFixed(2),
    commits.toFixed(1),
  ];
  return toTable(
    ['What Postgres is asked', 'Statements', 'CPU in ms', 'Transactions that write'],
    [
      row('by an upload that is accepted', costs.accepting),
      ...Object.entries(jobs).map(([kind, { cost, pages }]) =>
        row(`by a job of ${kind}, pages: ${pages.toFixed(1)}`, cost),
      ),
      row('by an idle converter in a second', costs.idleSecond),
      row('by a converter that hears a wake-up for another', costs.wake),
      [`connections of a busy converter: ${connections}`, '', '', ''],
    ],
  );
}

function listNodes({ works, costs, connections }: Measured, commitsPerSecond: number): string {
  const postgres = { cores: POSTGRES_CORES, commitsPerSecond };
  const pages = mean(works.map((work) => work.pages));
  const rows = NODES.map((nodes) => {
    const uploadsPerSecond = LOAD * mostPerSecond(nodes * UNITS_PER_NODE, works);
    const { waits, passes } = simulateQueue({
      works,
      nodes,
      unitsPerNode: UNITS_PER_NODE,
      uploadsPerSecond,
      uploads: SIMULATED_UPLOADS,
      random: createRandom(SEED),
    });
    waits.sort((a, b) => a - b);
    const at = (percent: number) => `${(waits[Math.floor((waits.length * percent) / 100)] as number).toFixed(2)} s`;
    const {
      postgres: work,
      waking,
      possiblePerSecond,
      limit,
    } = predict({ nodes, uploadsPerSecond, passes }, works, costs, postgres);
    return [
      String(nodes),
      `${uploadsPerSecond.toFixed(0)} / ${(uploadsPerSecond * pages).toFixed(0)}`,
      `${at(50)} / ${at(99)}`,
      passes.toFixed(1),
      (work.statements + waking.statements).toFixed(0),
      `${work.seconds.toFixed(1)} + ${waking.seconds.toFixed(1)}`,
      (work.commits + waking.commits).toFixed(0),
      String(nodes * connections),
      limit === 'converters' ? 'all' : possiblePerSecond.toFixed(0),
      limit,
    ];
  });
  const columns = [
    'Nodes',
    `Uploads / pages per second at a load of ${LOAD * 100}%`,
    'Queue time, p50 / p99',
    'Passes of a wake-up',
    'Statements per second',
    'Cores of Postgres, and for waking',
    'Commits per second',
    'Connections',
    'Uploads that Postgres lets through',
    'Limit',
  ];
  return toTable(columns, rows);
}

function toTable(columns: string[], rows: string[][]): string {
  return [columns, columns.map(() => '---'), ...rows].map((line) => `| ${line.join(' | ')} |\n`).join('');
}

/** Standard output is for the tables alone. */
