import { setTimeout } from 'node:timers/promises';
import { z } from 'zod';
import { defineTask } from '../../../jobs/task.ts';
import { AppError } from '../../../runtime/errors.ts';

/** What an attempt does: `kill` sends SIGKILL to the process that runs it, `hang` waits until it is told to end. */
export const STEPS = ['complete', 'fail', 'fail_for_good', 'hang', 'kill'] as const;
export type Step = (typeof STEPS)[number];

export interface Script extends Record<string, unknown> {
  /** One for each attempt; those beyond complete. */
  steps: Step[];
  /** How long an attempt works before its step. */
  milliseconds: number;
}

export function stepOf({ steps }: Pick<Script, 'steps'>, attempt: number): Step {
  return steps[attempt - 1] ?? 'complete';
}

/** A job that follows a script: by itself in the converter, and the same in a sandbox. */
const scripted = (type: string, trusted: boolean) =>
  defineTask({
    type,
    payload: z.strictObject({ steps: z.array(z.enum(STEPS)), milliseconds: z.int() }),
    resources: { cpuUnits: 1, memoryMb: 256 },
    trusted,
    async run({ payload, attempt, signal }) {
      await setTimeout(payload.milliseconds, undefined, { signal });
      const step = stepOf(payload, attempt);
      if (step === 'fail') throw new Error(`attempt ${attempt} fails, as its script says`);
      if (step === 'fail_for_good') throw new AppError('corrupt_file', 'fails for good, as its script says');
      if (step === 'kill') process.kill(process.pid, 'SIGKILL');
      if (step !== 'complete') await setTimeout(60_000, undefined, { signal });
      return { attempt };
    },
  });

export default [scripted('scripted', true), scripted('scripted_in_sandbox', false)];
