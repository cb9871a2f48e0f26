import fc from 'fast-check';
import { PRIORITIES, type Priority } from '../../../db/schema.ts';
import type { Shape } from '../../../jobs/shape.ts';
import type { NewJob } from '../../../jobs/submit.ts';
import type { Script, Step } from './tasks.ts';

/** One run: jobs in the order in which they are submitted, and what else happens meanwhile. Jobs are named by index. */
export interface Plan {
  jobs: PlannedJob[];
  /** Each so long after its job was submitted. */
  interventions: { kind: 'cancel' | 'retry'; job: number; afterMs: number }[];
  signals: { slot: number; signal: 'SIGKILL' | 'SIGTERM'; afterMs: number }[];
}

export interface PlannedJob extends Script {
  prerequisites: number[];
  priority: Priority;
  shape: Shape;
  sandboxed: boolean;
  maxAttempts: number;
  timeoutSeconds: number;
  /** In the same call as the job before. */
  joins: boolean;
  /** The call is sent twice at once, as by a client that repeats it. */
  twice: boolean;
  /** Once all have ended, should it have failed. */
  retriedAfterwards: boolean;
}

const MAX_JOBS = 28;

export function planned({ slots, shapes }: { slots: number; shapes: Shape[] }): fc.Arbitrary<Plan> {
  const rarely = (inHowMany: number) => fc.nat(inHowMany - 1).map((number) => number === inHowMany - 1);
  const step = fc.oneof(
    { weight: 12, arbitrary: fc.constant<Step>('complete') },
    { weight: 6, arbitrary: fc.constant<Step>('fail') },
    { weight: 1, arbitrary: fc.constant<Step>('fail_permanently') },
  );
  const job = fc.record({
    prerequisites: fc.array(fc.nat(MAX_JOBS), { maxLength: 2 }),
    priority: fc.constantFrom(...PRIORITIES),
    shape: fc.constantFrom(...shapes),
    sandboxed: rarely(8),
    steps: fc.array(step, { maxLength: 4, size: 'max' }),
    milliseconds: fc.integer({ min: 1, max: 200 }),
    maxAttempts: fc.integer({ min: 1, max: 4 }),
    joins: fc.boolean(),
    twice: rarely(6),
    retriedAfterwards: fc.boolean(),
  });
  const index = fc.nat(MAX_JOBS - 1);
  return fc
    .record({
      jobs: fc.array(job, { minLength: 14, maxLength: MAX_JOBS, size: 'max' }),
      // Few: each of them costs a second, or a process.
      mishaps: fc.array(
        fc.record({ job: index, attempt: fc.integer({ min: 1, max: 2 }), step: fc.constantFrom<Step>('hang', 'kill') }),
        { maxLength: 4, size: 'max' },
      ),
      interventions: fc.array(
        fc.record({ kind: fc.constantFrom('cancel' as const, 'retry' as const), job: index, afterMs: fc.nat(600) }),
        { maxLength: 16, size: 'max' },
      ),
      signals: fc.array(
        fc.record({
          slot: fc.nat(slots - 1),
          signal: fc.constantFrom('SIGKILL' as const, 'SIGTERM' as const),
          afterMs: fc.nat(1_500),
        }),
        { maxLength: 2, size: 'max' },
      ),
    })
    .map(({ jobs, mishaps, ...rest }) => {
      const count = jobs.length;
      const complete = jobs.map((each, position): PlannedJob => {
        const steps = [...each.steps];
        for (const mishap of mishaps) {
          if (mishap.job % count !== position) continue;
          while (steps.length < mishap.attempt) steps.push('fail');
          steps[mishap.attempt - 1] = mishap.step;
        }
        // Each depends on jobs before it alone: no cycles.
        const prerequisites = position === 0 ? [] : [...new Set(each.prerequisites.map((at) => at % position))];
        return { ...each, steps, prerequisites, timeoutSeconds: steps.includes('hang') ? 1 : 300 };
      });
      return {
        jobs: complete,
        signals: rest.signals,
        interventions: rest.interventions.map((each) => ({ ...each, job: each.job % count })),
      };
    });
}

/** The calls that submit a plan's jobs, each with its jobs as the domain takes them. */
export function callsOf({ jobs }: Plan, idOf: (index: number) => string): { twice: boolean; jobs: NewJob[] }[] {
  const calls: { twice: boolean; jobs: NewJob[] }[] = [];
  for (const [index, { prerequisites, sandboxed, steps, milliseconds, joins, twice, ...options }] of jobs.entries()) {
    const newJob = {
      priority: options.priority,
      shape: options.shape,
      maxAttempts: options.maxAttempts,
      timeoutSeconds: options.timeoutSeconds,
      id: idOf(index),
      fingerprint: idOf(index),
      type: sandboxed ? 'scripted_in_sandbox' : 'scripted',
      payload: { steps, milliseconds },
      dependsOn: prerequisites.map(idOf),
      initialDelaySeconds: 0.05,
    };
    const last = calls.at(-1);
    if (joins && last !== undefined) last.jobs.push(newJob);
    else calls.push({ twice, jobs: [newJob] });
  }
  return calls;
}
