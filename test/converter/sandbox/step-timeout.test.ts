import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Step } from '../../../conversion/conversion-task.ts';
import { StepTimeout } from '../../../converter/sandbox/step-timeout.ts';

const step = (page: number, engine: Step['engine'], last: boolean): Step => ({ page, engine, last });
const children: ChildProcess[] = [];

/** A process that uses one processor, or none. */
async function start(code: 'busy' | 'idle'): Promise<number> {
  const work = code === 'busy' ? 'for (;;) ;' : 'setInterval(() => undefined, 1000);';
  const child = spawn(process.execPath, ['-e', `process.stdout.write('ready'); ${work}`]);
  children.push(child);
  await once(child.stdout, 'data');
  return child.pid ?? 0;
}

afterEach(async () => {
  for (const child of children.splice(0)) {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
});

/**
 * Begins a step and gives the processor time that its page had used at the timeout. A machine that gives it little ends
 * it by the clock, so the lower bounds below are no more than what tells the cases apart.
 */
async function runUntilTimeout(pid: number, limit: number, steps: Step[], spent = () => 0): Promise<number> {
  let used = 0;
  for (const at of steps) {
    used = await new Promise<number>((resolve) => {
      const timeout = new StepTimeout(
        () => pid,
        limit,
        spent,
        () => resolve(timeout.spentSeconds()),
      );
      timeout.begin(at);
    });
  }
  return used;
}

test('an engine without a substitute has the whole limit', async () => {
  const used = await runUntilTimeout(await start('busy'), 0.6, [step(1, 'pdfium', true)]);
  expect(used).toBeGreaterThan(0.35);
  expect(used).toBeLessThan(1.2);
});

test('an engine with a substitute has half of it', async () => {
  const used = await runUntilTimeout(await start('busy'), 0.8, [step(1, 'pdfium', false)]);
  expect(used).toBeGreaterThan(0.2);
  expect(used).toBeLessThan(0.8);
});

test('time that a page has used before counts', async () => {
  const used = await runUntilTimeout(await start('busy'), 1, [step(1, 'pdfium', true)], () => 0.7);
  expect(used).toBeGreaterThan(0.75);
  expect(used).toBeLessThan(1.5);
});

test('two engines share the limit of a page, and another page has a limit of its own', async () => {
  const pid = await start('busy');
  const overdue = Promise.withResolvers<Step>();
  const timeout = new StepTimeout(
    () => pid,
    0.8,
    () => 0,
    overdue.resolve,
  );
  timeout.begin(step(1, 'pdfium', true));
  // The second engine begins after the first has used most of the limit.
  while (timeout.spentSeconds() < 0.5) {
    await new Promise(setImmediate);
    timeout.stop();
    if (timeout.spentSeconds() < 0.5) timeout.begin(step(1, 'pdfium', true));
  }
  timeout.begin(step(1, 'pdf-to-img', true));
  expect(timeout.spentSeconds()).toBeGreaterThanOrEqual(0.5);
  expect((await overdue.promise).engine).toBe('pdf-to-img');
  expect(timeout.spentSeconds()).toBeLessThan(1.2);
  timeout.begin(step(2, 'pdfium', true));
  expect(timeout.spentSeconds()).toBeLessThan(0.3);
  timeout.stop();
});

test('a process that gets no processor time has five times the limit by the clock', async () => {
  const began = performance.now();
  const used = await runUntilTimeout(await start('idle'), 0.2, [step(1, 'pdfium', true)]);
  expect(performance.now() - began).toBeGreaterThanOrEqual(990);
  expect(used).toBeLessThan(0.2);
});
