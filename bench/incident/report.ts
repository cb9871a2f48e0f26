import path from 'node:path';
import type { Row } from '../table.ts';
import type { Ended, Run } from './run.ts';

/** All runs of one system; the baseline has no run without hostile uploads. */
export interface Runs {
  closed: Run;
  open: Run;
  openWithoutHostile?: Run;
}

/** The comparison with its targets. `other` is undefined when its programs are missing. */
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
    'Uploads disturbed by a neighbour, all runs with hostile uploads',
    (runs) => disturbed(runs.closed) + disturbed(runs.open),
  );
  none('Hostile uploads lost, all runs', (runs) => count(runs.closed, 'lost', true) + count(runs.open, 'lost', true));
  none('Normal uploads not converted, all runs', ({ closed, open, openWithoutHostile }) =>
    [closed, open, openWithoutHostile ?? []].flat().reduce((sum, run) => sum + notConverted(run), 0),
  );
  against('Gigabyte-seconds per upload, closed loop', gigabyteSecondsEach, (value) => value.toFixed(2), { most: 0.5 });
  against(
    'Uploads per minute, closed loop',
    ({ closed }) => perMinute(closed),
    (value) => value.toFixed(0),
    { least: 2 },
  );
  for (const percent of [50, 99]) {
    against(`Normal uploads, open loop, p${percent}`, ({ open }) => percentile(open, percent), seconds);
  }
  if (ours.openWithoutHostile) {
    const [mine, calm] = [percentile(ours.open, 99), percentile(ours.openWithoutHostile, 99)];
    const what = 'Normal uploads, open loop, p99: with hostile uploads against none';
    rows.push({ what, ours: seconds(mine), other: `sheetmill ${seconds(calm)}`, ratio: mine / calm, most: 1.5 });
  }
  return rows;
}

/** All figures, with a column for each run. */
export function listFigures(columns: Record<string, Run | undefined>): string {
  const runs = Object.entries(columns).filter((column): column is [string, Run] => column[1] !== undefined);
  const figures: Record<string, (run: Run) => string> = {
    'Uploads, hostile uploads among them': ({ ended }) => `${ended.length}, ${ended.filter(isHostile).length}`,
    'Normal: converted / failed / lost': (run) => outcomes(run, false),
    'Normal: disturbed by a neighbour': (run) => String(disturbed(run)),
    'Normal: p50 / p99 / longest': (run) =>
      [50, 99, 100].map((percent) => seconds(percentile(run, percent))).join(' / '),
    'Hostile: converted / failed clearly / lost': (run) => outcomes(run, true),
    'Time of the run': (run) => seconds(run.seconds),
    'Uploads per minute': (run) => perMinute(run).toFixed(0),
    'Memory, peak of the sum': ({ peakMb }) => `${peakMb.toFixed(0)} MB`,
    'Memory, largest process': ({ largestProcessMb }) => `${largestProcessMb.toFixed(0)} MB`,
    'Gigabyte-seconds': ({ gigabyteSeconds }) => gigabyteSeconds.toFixed(0),
  };
  const lines = Object.entries(figures).map(([what, figure]) => [what, ...runs.map(([, run]) => figure(run))]);
  return table([['What', ...runs.map(([name]) => name)], ...lines]);
}

/** The outcomes of each kind of hostile upload, and why normal uploads were disturbed or not converted. */
export function listReasons(columns: Record<string, Run | undefined>): string {
  const runs = Object.entries(columns).filter((column): column is [string, Run] => column[1] !== undefined);
  const kinds = new Set(runs.flatMap(([, { ended }]) => ended.flatMap(({ upload }) => upload.hostileKind ?? [])));
  const fates = (run: Run, kind: string) =>
    run.ended
      .filter(({ upload }) => upload.hostileKind === kind)
      .map(({ outcome, reason }) => (reason === '' ? outcome : `${outcome}: ${reason}`));
  const lines = [...kinds].map((kind) => [kind, ...runs.map(([, run]) => tally(fates(run, kind)))]);
  const normal = ({ ended }: Run) => ended.filter((one) => !isHostile(one));
  const disturbances = (run: Run) =>
    normal(run).flatMap((one) => one.disturbances.map((why) => `${kindOf(one)}: ${why}`));
  const failures = (run: Run) =>
    normal(run)
      .filter(({ outcome }) => outcome !== 'converted')
      .map((one) => `${kindOf(one)}: ${one.outcome}: ${one.reason}`);
  lines.push(['normal, disturbed', ...runs.map(([, run]) => tally(disturbances(run)))]);
  lines.push(['normal, not converted', ...runs.map(([, run]) => tally(failures(run)))]);
  return table([['Upload', ...runs.map(([name]) => name)], ...lines]);
}

/** The distinct texts with their counts, as a table cell. Page numbers are ignored. */
function tally(texts: string[]): string {
  const counts = new Map<string, number>();
  for (const text of texts) {
    const alike = text.replace(/page \d+/, 'a page');
    counts.set(alike, (counts.get(alike) ?? 0) + 1);
  }
  return [...counts].map(([text, times]) => `${times} ${text.replaceAll('|', '/').slice(0, 120)}`).join('; ');
}

/** The kind of a normal file by its name: photo, scan or document. */
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

function isHostile({ upload }: Ended): boolean {
  return upload.hostileKind !== undefined;
}

function count({ ended }: Run, outcome: Ended['outcome'], hostileFiles: boolean): number {
  return ended.filter((one) => one.outcome === outcome && isHostile(one) === hostileFiles).length;
}

function outcomes(run: Run, hostileFiles: boolean): string {
  return (['converted', 'failed', 'lost'] as const).map((outcome) => count(run, outcome, hostileFiles)).join(' / ');
}

function notConverted(run: Run): number {
  return count(run, 'failed', false) + count(run, 'lost', false);
}

function disturbed({ ended }: Run): number {
  const isDisturbed = (one: Ended) => one.disturbances.length > 0 || one.outcome !== 'converted';
  return ended.filter((one) => isDisturbed(one) && !isHostile(one)).length;
}

/** A percentile of the time from upload to end, over normal uploads. */
function percentile({ ended }: Run, percent: number): number {
  const times = ended.filter((one) => !isHostile(one)).map((one) => one.seconds);
  return times.sort((a, b) => a - b)[Math.ceil((percent / 100) * times.length) - 1] ?? Number.NaN;
}

function seconds(value: number): string {
  return `${value.toFixed(value < 100 ? 2 : 0)} s`;
}
