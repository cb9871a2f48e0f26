import path from 'node:path';
import type { Row } from '../table.ts';
import type { Ended, Run } from './run.ts';

/** All runs of one system; the old way has none without monsters. */
export interface Runs {
  closed: Run;
  open: Run;
  openWithoutMonsters?: Run;
}

/** What the purpose of the bench asks for, with its targets. `other` is undefined when its programs are missing. */
export function compare(ours: Runs, other: Runs | undefined): Row[] {
  const rows: Row[] = [];
  const against = (
    what: string,
    figure: (runs: Runs) => number,
    show: (value: number) => string,
    limits: Pick<Row, 'least' | 'most'> = {},
  ) => {
    const [mine, theirs] = [figure(ours), other && figure(other)];
    const ratio = theirs === undefined ? undefined : mine / theirs;
    const otherText = theirs === undefined ? 'not installed' : show(theirs);
    rows.push({ what, ours: show(mine), other: otherText, ratio, ...limits });
  };
  const none = (what: string, count: (runs: Runs) => number) => {
    const otherText = other ? String(count(other)) : 'not installed';
    rows.push({ what, ours: String(count(ours)), other: otherText, ratio: count(ours), most: 0 });
  };
  none(
    'Uploads disturbed by a neighbour, all runs with monsters',
    (runs) => disturbed(runs.closed) + disturbed(runs.open),
  );
  none('Monsters lost, all runs', (runs) => count(runs.closed, 'lost', true) + count(runs.open, 'lost', true));
  none('Innocent uploads not converted, all runs', ({ closed, open, openWithoutMonsters }) =>
    [closed, open, openWithoutMonsters ?? []].flat().reduce((sum, run) => sum + notConverted(run), 0),
  );
  against('Gigabyte-seconds per upload, closed loop', gigabyteSecondsEach, (value) => value.toFixed(2), { most: 0.5 });
  against(
    'Uploads per minute, closed loop',
    ({ closed }) => perMinute(closed),
    (value) => value.toFixed(0),
    { least: 2 },
  );
  for (const percent of [50, 99]) {
    against(`Innocent uploads, open loop, p${percent}`, ({ open }) => percentile(open, percent), seconds);
  }
  if (ours.openWithoutMonsters) {
    const [mine, calm] = [percentile(ours.open, 99), percentile(ours.openWithoutMonsters, 99)];
    const what = 'Innocent uploads, open loop, p99: with monsters against none';
    rows.push({ what, ours: seconds(mine), other: `sheetmill ${seconds(calm)}`, ratio: mine / calm, most: 1.5 });
  }
  return rows;
}

/** Every figure of every run, one run a column. */
export function listFigures(columns: Record<string, Run | undefined>): string {
  const runs = Object.entries(columns).filter((column): column is [string, Run] => column[1] !== undefined);
  const figures: Record<string, (run: Run) => string> = {
    'Uploads, monsters among them': ({ ended }) => `${ended.length}, ${ended.filter(isMonster).length}`,
    'Innocent: converted / failed / lost': (run) => outcomes(run, false),
    'Innocent: disturbed by a neighbour': (run) => String(disturbed(run)),
    'Innocent: p50 / p99 / longest': (run) =>
      [50, 99, 100].map((percent) => seconds(percentile(run, percent))).join(' / '),
    'Monsters: converted / failed clearly / lost': (run) => outcomes(run, true),
    'Time of the run': (run) => seconds(run.seconds),
    'Uploads per minute': (run) => perMinute(run).toFixed(0),
    'Memory, peak of the sum': ({ peakMb }) => `${peakMb.toFixed(0)} MB`,
    'Memory, largest process': ({ largestProcessMb }) => `${largestProcessMb.toFixed(0)} MB`,
    'Gigabyte-seconds': ({ gigabyteSeconds }) => gigabyteSeconds.toFixed(0),
  };
  const lines = Object.entries(figures).map(([what, figure]) => [what, ...runs.map(([, run]) => figure(run))]);
  return table([['What', ...runs.map(([name]) => name)], ...lines]);
}

/** What became of each kind of monster, and why the innocent were disturbed, with the reasons given. */
export function listReasons(columns: Record<string, Run | undefined>): string {
  const runs = Object.entries(columns).filter((column): column is [string, Run] => column[1] !== undefined);
  const kinds = new Set(runs.flatMap(([, { ended }]) => ended.flatMap(({ upload }) => upload.monster ?? [])));
  const fates = (run: Run, kind: string) =>
    run.ended
      .filter(({ upload }) => upload.monster === kind)
      .map(({ outcome, reason }) => (reason === '' ? outcome : `${outcome}: ${reason}`));
  const lines = [...kinds].map((kind) => [kind, ...runs.map(([, run]) => tally(fates(run, kind)))]);
  const innocent = ({ ended }: Run) => ended.filter((one) => !isMonster(one));
  const disturbances = (run: Run) =>
    innocent(run).flatMap((one) => one.disturbances.map((why) => `${kindOf(one)}: ${why}`));
  const failures = (run: Run) =>
    innocent(run)
      .filter(({ outcome }) => outcome !== 'converted')
      .map((one) => `${kindOf(one)}: ${one.outcome}: ${one.reason}`);
  lines.push(['innocent, disturbed', ...runs.map(([, run]) => tally(disturbances(run)))]);
  lines.push(['innocent, not converted', ...runs.map(([, run]) => tally(failures(run)))]);
  return table([['Upload', ...runs.map(([name]) => name)], ...lines]);
}

/** Equal ones once, with their number, in the shape of a table's cell; on which page it was makes no difference. */
function tally(texts: string[]): string {
  const counts = new Map<string, number>();
  for (const text of texts) {
    const alike = text.replace(/page \d+/, 'a page');
    counts.set(alike, (counts.get(alike) ?? 0) + 1);
  }
  return [...counts].map(([text, times]) => `${times} ${text.replaceAll('|', '/').slice(0, 120)}`).join('; ');
}

/** By the name that innocents.ts gave the file: photo, scan or document. */
function kindOf({ upload }: Ended): string {
  return path.basename(upload.file).split('-')[0] ?? '';
}

function table([heads = [], ...lines]: string[][]): string {
  return [heads, heads.map(() => '---'), ...lines].map((line) => `| ${line.join(' | ')} |\n`).join('');
}

export function perMinute({ ended, seconds }: Run): number {
  return (ended.length / seconds) * 60;
}

function gigabyteSecondsEach({ closed }: Runs): number {
  return closed.gigabyteSeconds / closed.ended.length;
}

function isMonster({ upload }: Ended): boolean {
  return upload.monster !== undefined;
}

function count({ ended }: Run, outcome: Ended['outcome'], monsters: boolean): number {
  return ended.filter((one) => one.outcome === outcome && isMonster(one) === monsters).length;
}

function outcomes(run: Run, monsters: boolean): string {
  return (['converted', 'failed', 'lost'] as const).map((outcome) => count(run, outcome, monsters)).join(' / ');
}

function notConverted(run: Run): number {
  return count(run, 'failed', false) + count(run, 'lost', false);
}

function disturbed({ ended }: Run): number {
  const isDisturbed = (one: Ended) => one.disturbances.length > 0 || one.outcome !== 'converted';
  return ended.filter((one) => isDisturbed(one) && !isMonster(one)).length;
}

/** Of the time from upload to end, of the innocent. */
function percentile({ ended }: Run, percent: number): number {
  const times = ended.filter((one) => !isMonster(one)).map((one) => one.seconds);
  return times.sort((a, b) => a - b)[Math.ceil((percent / 100) * times.length) - 1] ?? Number.NaN;
}

function seconds(value: number): string {
  return `${value.toFixed(value < 100 ? 2 : 0)} s`;
}
