import { type Figures, readFigures } from './figures.ts';

/** The parts of Jest's result of a test file that are used. */
interface TestFile {
  testResults: { title: string; fullName: string; status: string }[];
  console?: { message: string }[] | undefined;
}

/** Prints each attack with its outcome and its figures as a table, once all tests have ended. */
export default class HostileReporter {
  readonly #rows: string[] = [];

  onTestResult(_test: unknown, { testResults, console: printed }: TestFile): void {
    const figures = new Map<string, Figures>();
    for (const { message } of printed ?? []) {
      const found = readFigures(message);
      if (found !== undefined) figures.set(found.test, { ...figures.get(found.test), ...found.figures });
    }
    for (const { title, fullName, status } of testResults) {
      const facts = Object.entries(figures.get(fullName) ?? {}).map(([name, value]) => `${name} ${value}`);
      this.#rows.push(`| ${title} | ${status} | ${facts.join('; ')} |`);
    }
  }

  onRunComplete(): void {
    process.stdout.write(`\n| Attack | Outcome | Figures |\n| --- | --- | --- |\n${this.#rows.join('\n')}\n`);
  }
}
