/** The figures of one test, by name. */
export type Figures = Record<string, string | number>;

const MARK = 'figures: ';

/** Adds the figures of a test to the table of `npm run test:hostile`. */
export function report(test: string, figures: Figures): void {
  // biome-ignore lint/suspicious/noConsole: Jest keeps it for the reporter, which may run in another process.
  console.log(`${MARK}${JSON.stringify({ test, figures })}`);
}

/** Reads what `report` printed; undefined for any other line. */
export function readFigures(line: string): { test: string; figures: Figures } | undefined {
  return line.startsWith(MARK) ? JSON.parse(line.slice(MARK.length)) : undefined;
}
