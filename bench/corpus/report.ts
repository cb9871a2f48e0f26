import { once } from 'node:events';
import { createWriteStream, type WriteStream } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { finished } from 'node:stream/promises';
import { FAR } from './compare.ts';
import { type Drawer, distancesOf, type Examined, type PageRow, toPreview } from './examine.ts';
import { Summary } from './summary.ts';
import type { Tool } from './tools.ts';

/** The report holds this many pages of each section, so that its memory is bounded; `pages.json` has all. */
const MAX_SHOWN = { outliers: 300, disputed: 100, near: 30, failed: 100, list: 1000 };
const DISPUTED = 'Far from one tool or both, which disagree there, or from the only tool. A person must decide.';
const DRAWERS: readonly Drawer[] = ['sheetmill', 'poppler', 'mutool'];

/** A page with the previews that the report shows. */
interface Shown {
  row: PageRow;
  previews: Partial<Record<Drawer, string>>;
}

/** The entries with the highest ranks. */
export class Highest<T> {
  readonly #max: number;
  #entries: { rank: number; entry: T }[] = [];

  constructor(max: number) {
    this.#max = max;
  }

  wants(rank: number): boolean {
    return this.#entries.length < this.#max || rank > (this.#entries.at(-1)?.rank ?? Infinity);
  }

  add(rank: number, entry: T): void {
    const after = this.#entries.findIndex((other) => other.rank < rank);
    this.#entries.splice(after < 0 ? this.#entries.length : after, 0, { rank, entry });
    this.#entries.length = Math.min(this.#entries.length, this.#max);
  }

  /** The highest first. */
  entries(): T[] {
    return this.#entries.map(({ entry }) => entry);
  }
}

/** Writes `pages.json` row by row, and `index.html` at the end. The owner calls `close`. */
export class Report {
  readonly summary = new Summary();
  readonly #folder: string;
  readonly #tools: Tool[];
  readonly #json: WriteStream;
  readonly #outliers = new Highest<Shown>(MAX_SHOWN.outliers);
  /** Far from a tool, where the tools disagree or there is only one. */
  readonly #disputed = new Highest<Shown>(MAX_SHOWN.disputed);
  /** Those that come next to being outliers. */
  readonly #near = new Highest<Shown>(MAX_SHOWN.near);
  /** Failed or lost, though a tool draws something on the page. */
  readonly #undrawn = new Highest<Shown>(MAX_SHOWN.failed);
  readonly #missing = new Highest<PageRow>(MAX_SHOWN.list);
  readonly #slow = new Highest<PageRow>(MAX_SHOWN.list);
  readonly #otherSizes = new Highest<PageRow>(MAX_SHOWN.list);

  private constructor(folder: string, tools: Tool[]) {
    this.#folder = folder;
    this.#tools = tools;
    this.#json = createWriteStream(path.join(folder, 'pages.json'));
  }

  static async open(folder: string, tools: Tool[]): Promise<Report> {
    await mkdir(folder, { recursive: true });
    const report = new Report(folder, tools);
    await once(report.#json, 'open');
    return report;
  }

  /** Must be called while the pictures exist. */
  async add(examined: Examined): Promise<void> {
    const { row } = examined;
    const separator = this.summary.pages === 0 ? '[\n' : ',\n';
    this.summary.add(row);
    if (!this.#json.write(separator + JSON.stringify(row))) await once(this.#json, 'drain');
    if (row.result !== 'drawn') this.#missing.add(0, row);
    if (row.is_slow) this.#slow.add(row.seconds, row);
    if (row.is_other_size) this.#otherSizes.add(0, row);
    const [section, rank] = this.#sectionOf(examined);
    if (section?.wants(rank)) section.add(rank, { row, previews: await previewsOf(examined) });
  }

  /** `notice`: why the report is not complete, if it is not. */
  async close(title: string, facts: string[], notice: string | null): Promise<void> {
    this.#json.end(this.summary.pages === 0 ? '[]\n' : '\n]\n');
    await finished(this.#json);
    await writeFile(path.join(this.#folder, 'index.html'), this.#toHtml(title, facts, notice));
  }

  #sectionOf({ row }: Examined): [Highest<Shown> | undefined, number] {
    const isDrawnByTool = Object.values(row.tools).some((tool) => tool.is_blank === false);
    if (row.result !== 'drawn') return [isDrawnByTool ? this.#undrawn : undefined, 0];
    if (row.is_outlier) return [this.#outliers, row.distance ?? 0];
    const { nearest, furthest } = distancesOf(row);
    // Pages far from every tool come first, then those with which one tool agrees.
    if (furthest > FAR) return [this.#disputed, nearest > FAR ? 1 + nearest : furthest];
    return [this.#near, row.distance ?? nearest];
  }

  #toHtml(title: string, facts: string[], notice: string | null): string {
    const rows = (list: Highest<PageRow>) => table(list.entries().map(describeRow));
    const warnings = [notice, this.#missingTools()].flatMap((text) => (text === null ? [] : [text]));
    return `<!doctype html><html lang="en"><meta charset="utf-8"><title>${escapeHtml(title)}</title><style>${STYLE}</style>
<h1>${escapeHtml(title)}</h1>
<ul>${facts.map((fact) => `<li>${escapeHtml(fact)}`).join('')}</ul>
${warnings.map((text) => `<p class="warning">${escapeHtml(text)}</p>`).join('')}
${table(this.summary.lines())}
${this.#section('Outliers', `Far from both tools (more than ${FAR}) at a place where those agree.`, this.#outliers)}
${this.#section('Failed, though a tool draws it', 'The tools may draw less than the page has.', this.#undrawn)}
${this.#section('Disputed', DISPUTED, this.#disputed)}
${this.#section('Near', 'The highest distances that are not outliers.', this.#near)}
<h2>Failed and lost</h2>${rows(this.#missing)}
<h2>Over 60 s</h2>${rows(this.#slow)}
<h2>Other size than every tool</h2>${rows(this.#otherSizes)}
<h2>Notes</h2>${table(this.summary.noteCounts().map(([note, pages]) => [note, String(pages)]))}
`;
  }

  #missingTools(): string | null {
    if (this.#tools.length > 1) return null;
    const installed = this.#tools[0] ? `only ${this.#tools[0].name} is installed` : 'no tool is installed';
    return `Outliers are unknown: ${installed}, and two (poppler and mutool) are needed to decide which one is wrong.`;
  }

  #section(heading: string, meaning: string, pages: Highest<Shown>): string {
    const figures = pages.entries().map(({ row, previews }) => {
      const cells = DRAWERS.map((drawer) => `<td>${drawer}<br>${pictureOf(drawer, row, previews)}`);
      const facts = describeRow(row).map(escapeHtml).join(' · ');
      return `<table class="page"><caption>${facts}</caption><tr>${cells.join('')}</table>`;
    });
    return `<h2>${heading} (${figures.length})</h2><p>${meaning}</p>${figures.join('\n')}`;
  }
}

async function previewsOf({ row, pictures, place }: Examined): Promise<Shown['previews']> {
  const previews: Shown['previews'] = {};
  for (const drawer of DRAWERS) {
    const picture = pictures[drawer];
    if (picture !== undefined) previews[drawer] = await toPreview(picture, row.result === 'drawn' ? place : null);
  }
  return previews;
}

function pictureOf(drawer: Drawer, row: PageRow, previews: Shown['previews']): string {
  if (previews[drawer] !== undefined) return `<img alt="page by ${drawer}" loading="lazy" src="${previews[drawer]}">`;
  const error = drawer === 'sheetmill' ? `${row.code}: ${row.message}` : row.tools[drawer]?.error;
  return `<em>${escapeHtml(error ?? 'not installed')}</em>`;
}

function describeRow(row: PageRow): string[] {
  const size = (drawn: { width: number | null; height: number | null }) => `${drawn.width} x ${drawn.height}`;
  const tools = Object.entries(row.tools).map(([name, tool]) =>
    tool.error === null ? `${name} ${distanceText(tool.distance)}, ${size(tool)}` : `${name}: ${tool.error}`,
  );
  return [
    row.page === null ? row.file : `${row.file}, page ${row.page}`,
    row.result === 'drawn' ? `distance ${distanceText(row.distance)}` : `${row.code ?? row.result}: ${row.message}`,
    ...(row.result === 'drawn' ? [`${row.engine}, ${size(row)}`] : []),
    ...tools,
    ...(row.tool_distance === null ? [] : [`between the tools ${distanceText(row.tool_distance)}`]),
    `${row.seconds.toFixed(1)} s`,
    ...(row.note === null ? [] : [`note: ${row.note}`]),
  ];
}

function distanceText(distance: number | null): string {
  return distance === null ? 'unknown' : distance.toFixed(3);
}

function table(rows: string[][]): string {
  if (rows.length === 0) return '<p>None.</p>';
  const lines = rows.map((cells) => `<tr>${cells.map((cell) => `<td>${escapeHtml(cell)}`).join('')}`);
  return `<table>${lines.join('\n')}</table>`;
}

function escapeHtml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
}

const STYLE = `body{font:14px/1.4 system-ui,sans-serif;margin:2em;max-width:1300px}table{border-collapse:collapse}
td{border:1px solid #ccc;padding:.2em .6em;vertical-align:top}.page{margin:1em 0}.page caption{text-align:left}
img{max-width:380px;display:block;border:1px solid #eee}.warning{background:#fe9;padding:.5em}`;
