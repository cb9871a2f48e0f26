import { z } from 'zod';
import { defineTask } from '../../../jobs/task.ts';

/** A task whose payload may be anything. */
export default [
  defineTask({
    type: 'any',
    payload: z.record(z.string(), z.unknown()),
    resources: { cpuUnits: 1, memoryMb: 256 },
    run: async () => ({}),
  }),
];
