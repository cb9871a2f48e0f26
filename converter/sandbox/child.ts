import { Socket } from 'node:net';
import { loadTasks } from '../../conversion/registry.ts';
import { BASELINE_MB } from '../../jobs/shape.ts';
import { runTask, type TaskEvent, type TaskOutcome } from '../run-task.ts';
import { LineSplitter } from './line-splitter.ts';
import type { SandboxOrder } from './protocol.ts';
import { throttleProgress } from './throttle-progress.ts';

/** The process that decodes untrusted bytes: one task at a time, without database and network. */

const converter = new Socket({ fd: 3, readable: true, writable: true });
converter.on('close', () => process.exit());
converter.on('error', () => process.exit());
// A terminal sends these to the whole process group; only the converter ends its sandboxes.
process.on('SIGINT', () => undefined);
process.on('SIGTERM', () => undefined);

/** The memory above which garbage is collected at once: V8 does not know the size of closed PDFs. */
const COLLECT_ABOVE_MB = BASELINE_MB + 10;

const loading = loadTasks(process.env.TASKS);
const warming = new AbortController();
let running = new AbortController();

const orders = new LineSplitter(Number.POSITIVE_INFINITY);
converter.on('data', (chunk) => {
  for (const line of orders.split(chunk)) void handleOrder(JSON.parse(line.toString()));
});

async function handleOrder(order: SandboxOrder): Promise<void> {
  if (order.kind === 'abort') return running.abort(new Error(order.reason));
  warming.abort();
  running = new AbortController();
  const [tasks, { withCode }] = await Promise.all([loading, import('../render/conversions.ts')]);
  const task = tasks.get(order.request.type);
  const report = throttleProgress(send);
  const outcome = await runTask(task && withCode(task), order.request, running.signal, report);
  collectGarbage();
  report.flush();
  await waitForErrors();
  send({ kind: 'ended', outcome });
}

/** Waits for unhandled errors, which end the sandbox: they must fail the task that caused them, and not the next. */
async function waitForErrors(): Promise<void> {
  // Node reports an unhandled rejection in the second turn.
  for (let turn = 0; turn < 2; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** Collects garbage. A full collection takes 15 ms. */
function collectGarbage(): void {
  globalThis.gc?.({ type: 'minor' });
  if (process.memoryUsage.rss() > COLLECT_ABOVE_MB * 2 ** 20) globalThis.gc?.({ type: 'major' });
}

function send(message: { kind: 'ready' | 'warm' } | TaskEvent | { kind: 'ended'; outcome: TaskOutcome }): void {
  converter.write(`${JSON.stringify(message)}\n`);
}

// Loading is slow, so it must not wait for the first file.
const { drawSamples, warmUp } = await import('../render/warm-up.ts');
await Promise.all([import('../render/conversions.ts'), warmUp(), loading]);
collectGarbage();
send({ kind: 'ready' });
// Until its first task, the sandbox compiles the code that the first page will run.
await drawSamples(warming.signal);
if (!warming.signal.aborted) {
  collectGarbage();
  send({ kind: 'warm' });
}
