import { loadTasks } from '../../conversion/registry.ts';

/**
 * Loads the modules of a sandbox and draws its samples, so that Node stores the compiled code in NODE_COMPILE_CACHE. A
 * separate process does this, because a sandbox that can write the cache could plant code for others.
 */
const { drawSamples, warmUp } = await import('../render/warm-up.ts');
const parts = [import('../render/conversions.ts'), import('./isolation/apply.ts'), import('./isolation/kernel.ts')];
await Promise.all([...parts, warmUp(), loadTasks(process.env.TASKS)]);
await drawSamples(new AbortController().signal);
process.exit();
