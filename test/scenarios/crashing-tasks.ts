import { z } from 'zod';
import examples from '../../examples/tasks/index.ts';
import { defineTask } from '../../jobs/task.ts';

/** Takes its converter with it, every time. */
const deadly = defineTask({
  type: 'deadly',
  payload: z.strictObject({}),
  resources: { cpuUnits: 1, memoryMb: 256 },
  trusted: true,
  async run() {
    process.kill(process.pid, 'SIGKILL');
    return {};
  },
});

/** The examples, and this: a module for `TASKS`. */
export default [...examples, deadly];
