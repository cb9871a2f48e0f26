import { BASELINE_MB } from '../../jobs/shape.ts';
import { loadTasks } from '../../tasks/registry.ts';
import { runTask } from '../run-task.ts';
import type { SandboxMessage, SandboxOrder } from './protocol.ts';

/** The process in which untrusted bytes are decoded: one task at a time, no database, no network. */

process.on('disconnect', () => process.exit());
// These may reach the whole process group; the converter decides when its sandboxes end.
process.on('SIGINT', () => undefined);
process.on('SIGTERM', () => undefined);

/** Somewhat below what is not used again for an ordinary conversion. */
const COLLECT_ABOVE_MB = BASELINE_MB + 85;

const loading = loadTasks(process.env.TASKS);
let underWay = new AbortController();

process.on('message', async (order: SandboxOrder) => {
  if (order.kind === 'abort') return underWay.abort(new Error(order.reason));
  underWay = new AbortController();
  const tasks = await loading;
  const outcome = await runTask(tasks.get(order.request.type), order.request, underWay.signal, send);
  collect();
  send({ kind: 'ended', outcome });
});

/**
 * V8 does not see how large the pixel buffers are that wait to be collected: 20 MB were left of each image. It gives
 * back the memory of its young generation, 80 MB after some pages, only at its last resort, which also throws away
 * compiled code: the next pages are 10% slower, though less so than in a fresh process.
 */
function collect(): void {
  globalThis.gc?.({ type: 'minor' });
  if (process.memoryUsage.rss() > COLLECT_ABOVE_MB * 2 ** 20) globalThis.gc?.({ type: 'major', flavor: 'last-resort' });
}

function send(message: SandboxMessage): void {
  process.send?.(message);
}

// Slow to load: better now than while the first file waits.
await Promise.all([import('../render/convert.ts').then(({ warmUp }) => warmUp()), loading]);
collect();
send({ kind: 'ready' });
