import { mkdtemp, writeFile } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { bench, folder, say, signal } from '../../bench/bench.ts';
import { type Service, startService } from '../../bench/service.ts';
import { engineFor, uploadMutant } from './attempt.ts';
import { type Mutant, mutate } from './mutate.ts';
import { makeSeeds, readSeeds, type Seed } from './seeds.ts';

/**
 * `npm run test:fuzz`: uploads damaged files to a service. Fails when one ends without a result and without a specific
 * code, when a process ends, or when memory grows. Keeps the files that failed, which the same numbers make again.
 */
const USAGE = 'usage: npm run test:fuzz -- [--count N] [--seed N] [--from INDEX] [--files DIR] [--engine NAME]';
const DEFAULT_COUNT = 20_000;
const SAY_EVERY = 250;
/** More than the converter runs at once, so that it never waits for a client. */
const CLIENTS_PER_CORE = 3;
/** Memory is compared once this part of the files has been converted: by then everything is loaded. */
const WARM_PART = 0.2;
const MAX_GROWTH_MB = 48;
/** Damaged files may be slow and large; these bounds keep a run short. */
const LIMITS = { PAGE_TIMEOUT_SECONDS: '20', MAX_PAGES: '50', MAX_PIXELS: '50000000', MIN_FREE_MB: '0' };
const QUIET = { LOG_LEVEL: 'fatal', RATE_LIMIT_PER_MINUTE: '1000000000', MAX_CONCURRENT_UPLOADS: '1000' };

interface Options {
  count: number;
  seedNumber: number;
  from: number;
  files: string | undefined;
  engine: string | undefined;
}

type Residents = ReturnType<Service['residentMb']>;

class Run {
  readonly #options: Options;
  readonly #seeds: readonly Seed[];
  readonly #service: Service;
  readonly #converterPid: number | undefined;
  readonly #outcomes = new Map<string, number>();
  readonly #memory: { done: number; residents: Residents }[] = [];
  #next: number;
  #done = 0;
  #faults = 0;
  #crashes = 0;
  #keptIn: string | undefined;

  constructor(service: Service, seeds: readonly Seed[], options: Options) {
    this.#service = service;
    this.#converterPid = service.converterPid();
    this.#seeds = seeds;
    this.#options = options;
    this.#next = options.from;
  }

  async run(clients: number): Promise<void> {
    await Promise.all(Array.from({ length: clients }, () => this.#client()));
  }

  /** One line of figures for standard output, and the problems. */
  summary(): { line: string; problems: string[] } {
    const warm = this.#memory.filter(({ done }) => done >= this.#options.count * WARM_PART);
    const problems = this.#faults > 0 ? [`${this.#faults} files failed; they are in ${this.#keptIn}`] : [];
    const memory = (['api', 'converter'] as const).map((part) => {
      const [first = 0, ...later] = warm.map(({ residents }) => residents[part]);
      const highest = Math.max(first, ...later);
      if (highest > first + MAX_GROWTH_MB)
        problems.push(`${part}: resident memory grew from ${first} to ${highest} MB`);
      return `${part} ${first} MB, at most ${highest} MB`;
    });
    const outcomes = [...this.#outcomes].sort(([, a], [, b]) => b - a).map(([name, count]) => `${name} ${count}`);
    const { seedNumber, from } = this.#options;
    const line = `${this.#done} files (seed ${seedNumber}, from ${from}): ${outcomes.join('; ')}; engine crashes ${this.#crashes}; faults ${this.#faults}; ${memory.join('; ')}`;
    return { line, problems };
  }

  async #client(): Promise<void> {
    const { count, from, seedNumber } = this.#options;
    while (this.#next < from + count) {
      signal.throwIfAborted();
      const mutant = mutate(this.#seeds, seedNumber, this.#next++);
      await this.#convert(mutant);
      this.#done++;
      if (this.#done % SAY_EVERY === 0 || this.#done === count) this.#observe();
    }
  }

  async #convert(mutant: Mutant): Promise<void> {
    const engine = this.#options.engine ?? engineFor(mutant.index);
    const { outcome, fault, isCrash } = await uploadMutant(this.#service.url, mutant, { engine, signal });
    if (this.#service.converterPid() !== this.#converterPid) throw new Error(`${nameOf(mutant)}: the converter ended`);
    this.#outcomes.set(outcome, (this.#outcomes.get(outcome) ?? 0) + 1);
    if (isCrash) this.#crashes++;
    if (fault === null) return;
    this.#faults++;
    say(
      `seed ${this.#options.seedNumber}, ${nameOf(mutant)}, engine ${engine}: ${fault}; kept as ${await this.#keep(mutant)}`,
    );
  }

  #observe(): void {
    const residents = this.#service.residentMb();
    this.#memory.push({ done: this.#done, residents });
    say(`${this.#done} files, API ${residents.api} MB, converter ${residents.converter} MB, ${this.#faults} faults`);
  }

  async #keep({ index, name, bytes }: Mutant): Promise<string> {
    this.#keptIn ??= await mkdtemp(path.join(tmpdir(), 'sheetmill-fuzz-'));
    const file = path.join(this.#keptIn, `${this.#options.seedNumber}-${index}-${path.basename(name)}`);
    await writeFile(file, bytes);
    return file;
  }
}

await bench(async () => {
  const options = readOptions(process.argv.slice(2));
  const seeds = [...(await makeSeeds()), ...(options.files === undefined ? [] : await readSeeds(options.files))];
  say(`${options.count} files from ${seeds.length} seeds`);
  const cores = availableParallelism();
  const service = await startService(folder, cores, signal, { ...LIMITS, ...QUIET });
  try {
    await service.restartConverter();
    const run = new Run(service, seeds, options);
    await run.run(cores * CLIENTS_PER_CORE);
    const { line, problems } = run.summary();
    process.stdout.write(`${line}\n`);
    if (problems.length > 0) throw new Error(problems.join('; '));
  } finally {
    await service.stop();
  }
});

function nameOf({ index, name }: Mutant): string {
  return `index ${index} (${name})`;
}

function readOptions(args: string[]): Options {
  const text = { type: 'string' } as const;
  const options = { count: text, seed: text, from: text, files: text, engine: text };
  const { values } = parseArgs({ args, options });
  const wholeNumber = (value: string | undefined, fallback: number) => {
    const number = Number(value ?? fallback);
    if (!Number.isSafeInteger(number) || number < 0) throw new Error(USAGE);
    return number;
  };
  return {
    count: wholeNumber(values.count, DEFAULT_COUNT),
    seedNumber: wholeNumber(values.seed, 1),
    from: wholeNumber(values.from, 0),
    files: values.files,
    engine: values.engine,
  };
}
