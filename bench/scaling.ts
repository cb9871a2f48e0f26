import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { bench, folder, say, signal } from './bench.ts';
import { makeNormalFiles } from './incident/normal-files.ts';
import type { Cost } from './scaling/costs.ts';
import { type Measured, measureCommits, measureCosts } from './scaling/measure.ts';
import { startService } from './service.ts';
import { describeMachine } from './table.ts';

/**
 * `npm run bench:scaling`: the cost of uploads, jobs and idle converters for Postgres, and how many transactions it
 * commits in a second. Prints Markdown. docs/scaling.md computes from that how many converters one Postgres can serve.
 * Takes about five minutes.
 */
const SEED = Number(process.env.SCALING_SEED ?? 1);

await bench(async () => {
  const { measured, commits } = await run();
  const uploads = `${measured.uploads} (3 in 5 images, 2 in 5 PDFs), on average ${measured.jobsEach.toFixed(1)} jobs, ${measured.pagesEach.toFixed(1)} pages and ${measured.cpuSecondsEach.toFixed(2)} s of a converter's CPU`;
  process.stdout.write(
    [
      describeMachine({ 'Node.js': process.versions.node, Uploads: uploads }),
      listCosts(measured),
      `Commits in a second, 16 transactions at a time: ${commits.notifying.toFixed(0)} with a notification, ${commits.silent.toFixed(0)} without.\n`,
    ].join('\n'),
  );
});

async function run() {
  say('making files');
  const files = path.join(folder, 'files');
  await mkdir(files);
  const normalFiles = await makeNormalFiles(files, SEED);
  const TASKS = path.resolve(import.meta.dirname, '../examples/tasks/index.ts');
  // One job at a time, so that each has a core.
  const service = await startService(path.join(folder, 'data'), 1, signal, { TASKS, CAPACITY_MEMORY_MB: '1024' }, [
    'shared_preload_libraries=pg_stat_statements',
  ]);
  try {
    const measured = await measureCosts(service, normalFiles, { signal, say });
    await service.stopConverter();
    say('commits');
    return { measured, commits: await measureCommits(service.databaseUrl) };
  } finally {
    await service.stop();
  }
}

function listCosts({ costs, jobs, connections }: Measured): string {
  const row = (what: string, { statements, seconds, commits }: Cost) => [
    what,
    statements.toFixed(1),
    (seconds * 1000).toFixed(2),
    commits.toFixed(1),
  ];
  const rows = [
    ['Cost for Postgres', 'Statements', 'CPU in ms', 'Transactions that write'],
    Array(4).fill('---'),
    row('an accepted upload', costs.accepting),
    ...Object.entries(jobs).map(([kind, { cost, pages }]) => row(`a job of ${kind}, pages: ${pages.toFixed(1)}`, cost)),
    row('an idle converter, for one second', costs.idleSecond),
    row('a wake-up that another converter receives', costs.wake),
    [`connections of a busy converter: ${connections}`, '', '', ''],
  ];
  return rows.map((cells) => `| ${cells.join(' | ')} |\n`).join('');
}
