import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { convert } from '../../conversion/tasks/convert.ts';
import { runWithRecovery } from '../../converter/continue-after-crash.ts';
import type { TaskEvent } from '../../converter/run-task.ts';
import { compiledCodeFolder } from '../../converter/sandbox/compiled-code.ts';
import { detectIsolation } from '../../converter/sandbox/isolation/detect.ts';
import type { Lease } from '../../converter/sandbox/lease.ts';
import { SandboxPool } from '../../converter/sandbox/pool.ts';
import { LARGE_MB } from '../../jobs/background-lane.ts';
import { createLogger } from '../../runtime/log.ts';
import { prepareFor } from '../support/prepare.ts';
import { engineFor } from './attempt.ts';
import { judgeErrors, type Verdict } from './judge.ts';
import { type Mutant, mutate } from './mutate.ts';
import { makeSeeds, PASSWORD, type Seed } from './seeds.ts';

/** The short form of `npm run test:fuzz`, without a service: conversions as a converter runs them. */

const MUTANTS = 100;
/** A machine that is busy with other tests takes ten times as long as an idle one. */
const TIMEOUT_MS = 180_000;
const SEED_NUMBER = 1;
const MEDIA_TYPES = { pdf: 'application/pdf', png: 'image/png', jpeg: 'image/jpeg' };

let folder: string;
let seeds: Seed[];
let pool: SandboxPool;
/** One for all files: a pool would replace a sandbox that has grown. */
let lease: Lease;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-fuzz-'));
  seeds = await makeSeeds();
  pool = new SandboxPool({
    keep: 1,
    roomMb: () => LARGE_MB,
    workFolder: folder,
    cacheFolder: compiledCodeFolder(folder),
    tasksModule: undefined,
    hidden: [],
    isolation: await detectIsolation({ foldersIn: folder }),
    log: createLogger('silent', {}),
  });
  lease = pool.lease(LARGE_MB, null);
});
afterAll(async () => {
  lease.release();
  await pool.close();
  await rm(folder, { recursive: true });
});

async function convertMutant({ index, name, bytes }: Mutant): Promise<Verdict> {
  const input = path.join(folder, `${index}-${name}`);
  await writeFile(input, bytes);
  const kind = seeds.find((seed) => seed.name === name)?.kind ?? 'pdf';
  const events: TaskEvent[] = [];
  const reservation = { cpuUnits: 1, memoryMb: LARGE_MB };
  const payload = { upload_id: 'u', original: 1, path: name, media_type: MEDIA_TYPES[kind], dpi: 36 };
  const request = {
    type: convert.type,
    payload: { ...payload, page_selection: null },
    ...{ attempt: 1, dependencies: [], files: { originals: [], pages: [] }, settledPages: [], failedSteps: [] },
    ...{ input, password: PASSWORD, reservation },
    limits: { maxPages: 10, maxPixels: 1e7, stepSeconds: 20, firstEngine: engineFor(index) },
  };
  const { outcome } = await runWithRecovery(
    lease,
    prepareFor(request),
    { deadlineMs: 60_000, signal: new AbortController().signal, onEvent: (event) => void events.push(event) },
    { reservedMb: LARGE_MB, maxMb: LARGE_MB },
  );
  await rm(input);
  const pages = events.flatMap((event) => (event.kind === 'page' ? [event.report] : []));
  return judgeErrors([outcome, ...pages].map((part) => ('error' in part ? part : {})));
}

test('the same numbers make the same mutants, and other numbers make others', async () => {
  const bytesOf = (seedNumber: number, index: number) => mutate(seeds, seedNumber, index).bytes.toString('latin1');
  expect((await makeSeeds()).map(({ bytes }) => bytes)).toEqual(seeds.map(({ bytes }) => bytes));
  expect(bytesOf(7, 3)).toBe(bytesOf(7, 3));
  expect(new Set([bytesOf(7, 3), bytesOf(7, 4), bytesOf(8, 3)]).size).toBe(3);
});

test('every sound seed is converted', async () => {
  for (const [index, seed] of seeds.entries()) {
    expect([seed.name, (await convertMutant({ ...seed, index: index * 4 })).outcome]).toEqual([seed.name, 'completed']);
  }
});

test(
  'every damaged file ends in a result or a specific code',
  async () => {
    const outcomes: Record<string, number> = {};
    const faults: string[] = [];
    for (let index = 0; index < MUTANTS; index++) {
      const mutant = mutate(seeds, SEED_NUMBER, index);
      const { outcome, fault } = await convertMutant(mutant);
      outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
      if (fault !== null) faults.push(`seed ${SEED_NUMBER}, index ${index} (${mutant.name}): ${fault}`);
    }
    expect(faults).toEqual([]);
    // Damage that is never noticed, or always, would test only one path.
    expect(outcomes.completed).toBeGreaterThan(MUTANTS / 10);
    expect(outcomes.corrupt_file).toBeGreaterThan(MUTANTS / 10);
  },
  TIMEOUT_MS,
);
