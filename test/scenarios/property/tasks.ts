import { setTimeout } from 'node:timers/promises';
import { z } from 'zod';
import { defineTask } from '../../../jobs/task.ts';
import { AppError } from '../../../runtime/errors.ts';

/** One attempt: `kill` sends SIGKILL to its process, `hang` waits until it is aborted. */
export const STEPS = ['complete', 'fail', 'fail_permanently', 'hang', 'kill'] as const;
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

/** Tasks that follow a script: one trusted, in the converter, and one in a sandbox. */
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
      if (step === 'fail_permanently') throw new AppError('corrupt_file', 'fails permanently, as its script says');
      if (step === 'kill') process.kill(process.pid, 'SIGKILL');
      if (step !== 'complete') await setTimeout(60_000, undefined, { signal });
      return { attempt };
    },
  });

export default [scripted('scripted', true), scripted('scripted_in_sandbox', false)];
