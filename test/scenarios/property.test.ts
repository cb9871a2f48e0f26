import { setTimeout as delay } from 'node:timers/promises';
import { and, asc, eq, inArray, isNull, sql } from 'drizzle-orm';
import fc from 'fast-check';
import { auditAll } from '../../conversion/audit.ts';
import { jobAttempts, jobs, PRIORITIES } from '../../db/schema.ts';
import { acceptJobs } from '../../jobs/accept.ts';
import { cancelJob } from '../../jobs/cancel.ts';
import { retryJob } from '../../jobs/retry.ts';
import type { NewJob } from '../../jobs/submit.ts';
import { AppError } from '../../runtime/errors.ts';
import { until } from '../support/service.ts';
import { type Farm, startFarm } from './property/farm.ts';
import { violationsOf } from './property/model.ts';
import { callsOf, type Plan, planned } from './property/plan.ts';

/** More runs make a longer search; the seed is printed when one fails. */
const RUNS = Number(process.env.PROPERTY_RUNS ?? 6);
const SEED = Number(process.env.PROPERTY_SEED ?? 20_260_801);
/** For one run; smaller plans would take as long to find. */
const MAX_MS = 40_000;
const search = { seed: SEED, endOnFailure: true };

let runs = 0;

/** Nothing, if the change was made; its error's code, if the domain refused it. */
async function refusal(change: Promise<unknown>): Promise<string | undefined> {
  return change.then(
    () => undefined,
    (error) => {
      if (error instanceof AppError) return error.code;
      throw error;
    },
  );
}

describe('one converter', () => {
  let farm: Farm;
  beforeAll(async () => {
    farm = await startFarm([{ cpuUnits: 2, memoryMb: 1024 }]);
  });
  afterAll(() => farm?.stop());

  test(
    'starts jobs of one shape by priority, and equals in the order in which they were submitted',
    async () => {
      const submitted = fc.array(
        fc.record({
          priority: fc.constantFrom(...PRIORITIES),
          shape: fc.constantFrom({ cpuUnits: 1, memoryMb: 256 }, { cpuUnits: 2, memoryMb: 512 }),
        }),
        { minLength: 12, maxLength: 24, size: 'max' },
      );
      const run = async (wanted: Pick<NewJob, 'priority' | 'shape'>[]) => {
        const { db, queues } = farm;
        const name = `order-${runs++}`;
        const submit = (id: string, milliseconds: number, job: Pick<NewJob, 'priority' | 'shape'>) =>
          acceptJobs(db, queues, [{ ...job, id, type: 'scripted', payload: { steps: [], milliseconds } }]);
        await submit(name, 60_000, { priority: 'critical', shape: { cpuUnits: 2, memoryMb: 1024 } });
        const statusOf = async () => (await db.select().from(jobs).where(eq(jobs.id, name)))[0]?.status;
        await until(async () => (await statusOf()) === 'running');
        for (const [index, job] of wanted.entries()) await submit(`${name}-${index}`, 1, job);
        await cancelJob(db, queues, name);

        const ids = wanted.map((_, index) => `${name}-${index}`);
        await until(async () => {
          const done = await db.$count(jobs, and(inArray(jobs.id, ids), eq(jobs.status, 'completed')));
          return done === ids.length;
        });
        const started = new Map(
          (
            await db
              .select({ id: jobAttempts.jobId, at: sql<string>`extract(epoch from ${jobAttempts.startedAt})::text` })
              .from(jobAttempts)
              .where(inArray(jobAttempts.jobId, ids))
              .orderBy(asc(jobAttempts.jobId))
          ).map(({ id, at }) => [id, Number(at)]),
        );
        for (const cpuUnits of [1, 2]) {
          const inTurn = PRIORITIES.flatMap((priority) =>
            wanted.flatMap((job, index) =>
              job.priority === priority && job.shape.cpuUnits === cpuUnits ? [`${name}-${index}`] : [],
            ),
          );
          // The sort is stable: what one claim took together counts as in order.
          expect(inTurn.toSorted((a, b) => (started.get(a) ?? 0) - (started.get(b) ?? 0))).toEqual(inTurn);
        }
        expect(await auditAll(db)).toEqual([]);
      };
      await fc.assert(fc.asyncProperty(submitted, run), { ...search, numRuns: RUNS });
    },
    RUNS * MAX_MS,
  );
});

describe('three converters', () => {
  const CAPACITIES = [
    { cpuUnits: 4, memoryMb: 2048 },
    { cpuUnits: 2, memoryMb: 1024 },
    { cpuUnits: 2, memoryMb: 1024 },
  ];
  const SHAPES = [
    { cpuUnits: 0, memoryMb: 256 },
    { cpuUnits: 1, memoryMb: 256 },
    { cpuUnits: 1, memoryMb: 1024 },
    { cpuUnits: 2, memoryMb: 512 },
    { cpuUnits: 3, memoryMb: 1536 },
  ];
  let farm: Farm;
  beforeAll(async () => {
    farm = await startFarm(CAPACITIES);
  });
  afterAll(() => farm?.stop());

  /** All that happens to the jobs of a plan, until every one has ended. */
  async function carryOut(plan: Plan, idOf: (index: number) => string) {
    const { db, queues } = farm;
    const cancelled: number[] = [];
    const retried: number[] = [];
    const stored = new Map(plan.jobs.map((_, index) => [idOf(index), Promise.withResolvers<void>()]));
    const retry = async (job: number) => {
      const refused = await refusal(retryJob(db, queues, idOf(job)));
      if (refused === undefined) retried.push(job);
      else expect(refused).toBe('conflict');
    };
    const submitAll = async () => {
      for (const call of callsOf(plan, idOf)) {
        const send = async () => {
          const refused = await refusal(acceptJobs(db, queues, call.jobs));
          // The only converter that could hold them is just being started again.
          if (refused !== undefined) expect(refused).toBe('exceeds_capacity');
          return refused === undefined;
        };
        await Promise.all(Array.from({ length: call.twice ? 2 : 1 }, () => until(send, MAX_MS)));
        for (const { id } of call.jobs) stored.get(id as string)?.resolve();
      }
    };
    const intervene = async ({ kind, job, afterMs }: Plan['interventions'][number]) => {
      await stored.get(idOf(job))?.promise;
      await delay(afterMs);
      if (kind === 'retry') return retry(job);
      const refused = await refusal(cancelJob(db, queues, idOf(job)));
      if (refused === undefined) cancelled.push(job);
      else expect(refused).toBe('conflict');
    };
    const allEnded = () =>
      until(async () => {
        farm.checkAlive();
        expect(await auditAll(db)).toEqual([]);
        return (await db.$count(jobs, isNull(jobs.finishedAt))) === 0;
      }, MAX_MS);

    await Promise.all([
      submitAll(),
      ...plan.interventions.map(intervene),
      ...plan.signals.map(async ({ slot, signal, afterMs }) => {
        await delay(afterMs);
        farm.signal(slot, signal);
      }),
    ]);
    await allEnded();
    // Backwards: what failed for a prerequisite is refused, and comes back with that.
    for (const [index, { retriedAfterwards }] of [...plan.jobs.entries()].toReversed())
      if (retriedAfterwards) await retry(index);
    await allEnded();
    return { cancelled, retried, killed: farm.killed, terminated: farm.terminated };
  }

  test(
    'keep every promise, whatever fails, is cancelled, retried or killed',
    async () => {
      const run = async (plan: Plan) => {
        const name = `run-${runs++}`;
        const idOf = (index: number) => `${name}-${index}`;
        await farm.allUp();
        const interference = await carryOut(plan, idOf);
        expect(await violationsOf(farm.db, { plan, idOf, interference })).toEqual([]);
        expect(await auditAll(farm.db)).toEqual([]);
        farm.checkAlive();
      };
      const plans = planned({ slots: CAPACITIES.length, shapes: SHAPES });
      await fc.assert(fc.asyncProperty(plans, run), { ...search, numRuns: RUNS });
    },
    RUNS * MAX_MS,
  );
});
