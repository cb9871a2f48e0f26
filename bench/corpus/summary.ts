import type { PageRow } from './examine.ts';

/** Notes name pages and fonts: there may be as many as pages, and each is counted only while they are few. */
const MAX_NOTES = 100;
const OTHER_NOTES = 'other notes';

/** The results of all pages, as counts. */
export class Summary {
  files = 0;
  pages = 0;
  drawn = 0;
  lost = 0;
  slow = 0;
  outliers = 0;
  otherSizes = 0;
  /** Pages that were compared with two tools. */
  compared = 0;
  readonly failed = new Map<string, number>();
  readonly engines = new Map<string, number>();
  readonly notes = new Map<string, number>();

  add(row: PageRow): void {
    this.pages++;
    if (row.result === 'drawn') this.drawn++;
    if (row.result === 'lost') this.lost++;
    if (row.result === 'failed') count(this.failed, row.code ?? 'no code');
    if (row.is_slow) this.slow++;
    if (row.is_outlier) this.outliers++;
    if (row.is_other_size) this.otherSizes++;
    if (row.distance !== null) this.compared++;
    if (row.engine !== null) count(this.engines, row.engine);
    if (row.note !== null) {
      count(this.notes, this.notes.size < MAX_NOTES || this.notes.has(row.note) ? row.note : OTHER_NOTES);
    }
  }

  /** The lines of the summary: what, and how much. */
  lines(): [string, string][] {
    const noted = [...this.notes.values()].reduce((sum, pages) => sum + pages, 0);
    const byCode = [...this.failed]
      .sort(byCount)
      .map(([code, pages]): [string, string] => [`failed: ${code}`, `${pages}`]);
    const byEngine = [...this.engines].map(([engine, pages]): [string, string] => [`drawn by ${engine}`, `${pages}`]);
    return [
      ['files', `${this.files}`],
      ['pages', `${this.pages}`],
      ['drawn', `${this.drawn}`],
      ...byCode,
      ['lost (no result)', `${this.lost}`],
      ['over 60 s', `${this.slow}`],
      ['compared with two tools', `${this.compared}`],
      ['outliers', `${this.outliers}`],
      ['other size than every tool', `${this.otherSizes}`],
      ...byEngine,
      ['drawn with a note', `${noted}`],
    ];
  }

  /** The notes with their counts, the most frequent first. */
  noteCounts(): [string, number][] {
    return [...this.notes].sort(byCount);
  }

  /** True when the run passes. */
  passes(maxOutliers: number): boolean {
    return this.lost === 0 && this.slow === 0 && this.outliers <= maxOutliers;
  }
}

function count(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

function byCount([, one]: [string, number], [, other]: [string, number]): number {
  return other - one;
}
