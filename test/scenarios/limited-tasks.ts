import { setTimeout } from 'node:timers/promises';
import { z } from 'zod';
import { defineTask } from '../../jobs/task.ts';
import { AppError } from '../../runtime/errors.ts';

const resources = { cpuUnits: 1, memoryMb: 256 };

/** Snoozes in its first attempt, and in its second asks for a retry at once. */
const patient = (type: string, trusted: boolean) =>
  defineTask({
    type,
    payload: z.strictObject({}),
    resources,
    trusted,
    async run({ attempt, snooze, progress }) {
      progress(attempt, 3);
      if (attempt === 1) snooze(1);
      if (attempt === 2) throw new AppError('task_failed', 'not yet', { retryAfterSeconds: 0 });
      return { attempt };
    },
  });

const exclusive = defineTask({
  type: 'exclusive',
  payload: z.strictObject({}),
  resources,
  trusted: true,
  concurrency: { perKey: 1 },
  async run({ signal }) {
    await setTimeout(50, undefined, { signal });
    return {};
  },
});

export default [patient('patient', true), patient('patient_in_sandbox', false), exclusive];
