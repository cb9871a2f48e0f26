import { execute } from './apply.ts';
import { openKernel } from './kernel.ts';
import type { Plan } from './plan.ts';

/**
 * Starts as the process that will be the sandbox, with the plan as its argument. Ends with an error on standard error
 * when a step of the plan fails.
 */
const kernel = await openKernel();
if (kernel === null) throw new Error('system calls cannot be made here');
execute(kernel, JSON.parse(process.argv[2] ?? '') as Plan);
