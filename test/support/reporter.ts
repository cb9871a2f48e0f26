const MAX_LISTED = 10;
/** Tests of files that are not in the repository: the only ones that CI may skip. */
const MAY_BE_SKIPPED = /\(needs the corpus\)/;

/** The parts of Jest's result of a test file that are used. */
interface TestFile {
  testFilePath: string;
  perfStats: { runtime: number };
  testResults: { fullName: string; status: string }[];
}

/** Lists the slowest test files. In CI, where every program that a test needs is installed, a skipped test is an error. */
export default class ProjectReporter {
  #error: Error | undefined;

  onRunComplete(_contexts: unknown, { testResults }: { testResults: TestFile[] }): void {
    const slowest = testResults
      .toSorted((a, b) => b.perfStats.runtime - a.perfStats.runtime)
      .slice(0, MAX_LISTED)
      .map(({ perfStats, testFilePath }) => `${(perfStats.runtime / 1_000).toFixed(1).padStart(7)} s  ${testFilePath}`);
    process.stderr.write(`\nSlowest test files:\n${slowest.join('\n').replaceAll(`${process.cwd()}/`, '')}\n`);
    const skipped = testResults
      .flatMap((file) => file.testResults)
      .filter(({ status, fullName }) => status === 'pending' && !MAY_BE_SKIPPED.test(fullName))
      .map(({ fullName }) => fullName);
    if (process.env.CI !== undefined && skipped.length > 0)
      this.#error = new Error(`CI skips no test, but these were skipped:\n${skipped.join('\n')}`);
  }

  getLastError(): Error | undefined {
    if (this.#error !== undefined) process.stderr.write(`\n${this.#error.message}\n`);
    return this.#error;
  }
}
