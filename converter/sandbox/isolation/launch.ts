import { applyPlan } from './apply.ts';
import { openKernel } from './kernel.ts';
import type { Plan } from './plan.ts';

/**
 * The process that becomes the sandbox. Its argument is the plan. It exits with a message on standard error when a step of
 * the plan fails.
 */
const kernel = await openKernel();
if (kernel === null) throw new Error('system calls are not supported on this machine');
const plan: Plan = JSON.parse(process.argv[2] ?? '');
applyPlan(kernel, plan);
