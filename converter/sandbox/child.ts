import { Socket } from 'node:net';
import { loadTasks } from '../../conversion/registry.ts';
import { BASELINE_MB } from '../../jobs/shape.ts';
import { runTask, type TaskEvent, type TaskOutcome } from '../run-task.ts';
import { Lines } from './line-splitter.ts';
import type { SandboxOrder } from './protocol.ts';
import { mergeProgress } from './throttle-progress.ts';

/** The process in which untrusted bytes are decoded: one task at a time, no database, no network. */

const converter = new Socket({ fd: 3, readable: true, writable: true });
converter.on('close', () => process.exit());
converter.on('error', () => process.exit());
// These may reach the whole process group; the converter decides when its sandboxes end.
process.on('SIGINT', () => undefined);
process.on('SIGTERM', () => undefined);

/** Above this, the memory of closed PDFs is collected at once: V8 does not see how large it is. */
const COLLECT_ABOVE_MB = BASELINE_MB + 10;

const loading = loadTasks(process.env.TASKS);
const warming = new AbortController();
let underWay = new AbortController();

const orders = new Lines(Number.POSITIVE_INFINITY);
converter.on('data', (chunk) => {
  for (const line of orders.cut(chunk)) void obey(JSON.parse(line.toString()));
});

async function obey(order: SandboxOrder): Promise<void> {
  if (order.kind === 'abort') return underWay.abort(new Error(order.reason));
  warming.abort();
  underWay = new AbortController();
  const tasks = await loading;
  const report = mergeProgress(send);
  const outcome = await runTask(tasks.get(order.request.type), order.request, underWay.signal, report);
  collect();
  report.flush();
  await pendingErrors();
  send({ kind: 'ended', outcome });
}

/** An error that nobody handles ends the sandbox: now it fails the task that caused it, and later the next one. */
async function pendingErrors(): Promise<void> {
  // Node reports a rejection after the callbacks that might have handled it, which is in the second turn.
  for (let turn = 0; turn < 2; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** A full collection takes 15 ms; one of the last resort would throw away compiled code as well. */
function collect(): void {
  globalThis.gc?.({ type: 'minor' });
  if (process.memoryUsage.rss() > COLLECT_ABOVE_MB * 2 ** 20) globalThis.gc?.({ type: 'major' });
}

function send(message: { kind: 'ready' | 'warm' } | TaskEvent | { kind: 'ended'; outcome: TaskOutcome }): void {
  converter.write(`${JSON.stringify(message)}\n`);
}

// Slow to load: better now than while the first file waits.
const { drawSamples, warmUp } = await import('../render/warm-up.ts');
await Promise.all([import('../render/convert.ts'), warmUp(), loading]);
collect();
send({ kind: 'ready' });
// A sandbox that has nothing to do yet compiles the code that the first page will run.
await drawSamples(warming.signal);
if (!warming.signal.aborted) {
  collect();
  send({ kind: 'warm' });
}
