import { existsSync, readFileSync } from 'node:fs';
import { availableParallelism, cpus, release, totalmem, type } from 'node:os';

/** One comparison: the ratio of our figure to the other one, with a minimum (`least`) or a maximum (`most`) as its target. */
export interface Row {
  what: string;
  ours: string;
  other: string;
  /** Undefined when the other is not installed. */
  ratio?: number | undefined;
  least?: number | undefined;
  most?: number | undefined;
}

function round(limit: number): number {
  return Number(limit.toFixed(2));
}

export function toMarkdown(rows: Row[]): string {
  const cells = rows.map(({ what, ours, other, ratio, least, most }) => {
    const target =
      least !== undefined ? `at least ${round(least)}` : most !== undefined ? `at most ${round(most)}` : '';
    const met = ratio === undefined || target === '' ? '' : ratio >= (least ?? 0) && ratio <= (most ?? Infinity);
    return [what, ours, other, ratio?.toFixed(2) ?? '', target, met === '' ? '' : met ? 'yes' : 'no'];
  });
  return [['What', 'sheetmill', 'Other', 'Ratio', 'Target', 'Met'], Array(6).fill('---'), ...cells]
    .map((line) => `| ${line.join(' | ')} |\n`)
    .join('');
}

/** The machine and the versions of the compared programs, as a list. */
export function describeMachine(versions: Record<string, string | undefined>): string {
  const distribution = existsSync('/etc/os-release') ? readFileSync('/etc/os-release', 'utf8') : '';
  const lines = {
    Processor: `${cpus()[0]?.model}, cores: ${availableParallelism()}`,
    Memory: `${(totalmem() / 2 ** 30).toFixed(1)} GiB`,
    System: `${/^PRETTY_NAME="?([^"\n]+)/m.exec(distribution)?.[1] ?? process.platform}, ${type()} ${release()}`,
    ...versions,
  };
  return Object.entries(lines)
    .map(([name, value]) => `- ${name}: ${value ?? 'not installed'}\n`)
    .join('');
}
