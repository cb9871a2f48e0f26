import { loadTasks } from '../../conversion/registry.ts';

/**
 * Loads what sandboxes load and draws what they draw first: Node then keeps the compiled code in NODE_COMPILE_CACHE. A
 * process of the converter does this, which decodes nothing from clients: sandboxes could leave code there for each other.
 */
const { drawSamples, warmUp } = await import('../render/warm-up.ts');
const parts = [import('../render/convert.ts'), import('./isolation/apply.ts'), import('./isolation/kernel.ts')];
await Promise.all([...parts, warmUp(), loadTasks(process.env.TASKS)]);
await drawSamples(new AbortController().signal);
process.exit();
