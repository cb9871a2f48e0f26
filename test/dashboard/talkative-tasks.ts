import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import examples from '../../examples/tasks/index.ts';
import { defineTask } from '../../jobs/task.ts';

/** A task that logs a line every 40 ms until it is aborted, without progress. */
const talk = defineTask({
  type: 'talk',
  payload: z.strictObject({}),
  resources: { cpuUnits: 1, memoryMb: 256 },
  trusted: true,
  async run({ signal, log }) {
    for (let line = 1; ; line++) {
      log('info', `line ${line}`, { line });
      await delay(40, undefined, { signal }).catch(() => signal.throwIfAborted());
    }
  },
});

/** A module for `TASKS`: the examples and this task. */
export default [...examples, talk];
