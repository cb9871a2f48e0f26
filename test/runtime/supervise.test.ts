import path from 'node:path';
import { childrenOf, descendantsOf } from '../../runtime/process-tree.ts';
import { type Part, type PartLimits, supervise } from '../../runtime/supervise.ts';
import { commandOf, isAlive } from '../scenarios/processes.ts';
import { until } from '../support/service.ts';

const SCRIPT = path.join(import.meta.dirname, '../support/hanging-part.ts');
const NEVER = 1_000_000;
const LIMITS: PartLimits = { restartAfterMs: 10, checkMs: 100, maxMissedChecks: 20, endMs: 60_000 };

let hangs = 0;
let isHanging = false;
let part: Part | undefined;
afterEach(() => part?.stop());

const running = () => childrenOf(process.pid).filter((pid) => commandOf(pid).includes('hanging-part.ts'));

/** Starts a part and gives its processes, its own first. */
async function start(limits: Partial<PartLimits>): Promise<number[]> {
  hangs = 0;
  isHanging = false;
  part = supervise('part', SCRIPT, {
    env: { ...process.env, NODE_OPTIONS: '' },
    execArgv: [],
    secrets: {},
    limits: { ...LIMITS, ...limits },
    onMessage: ({ kind }) => {
      isHanging ||= kind === 'hanging';
    },
    onHang: () => hangs++,
  });
  await part.ready;
  const [pid = 0] = running();
  const members = [pid, ...descendantsOf(pid)];
  expect(members).toHaveLength(2);
  return members;
}

async function hang(pid = 0): Promise<void> {
  process.kill(pid, 'SIGUSR2');
  await until(async () => isHanging);
}

test.each([
  ['after its first check', {}],
  ['before its first check', { checkMs: 2_000, maxMissedChecks: 0 }],
])('a part that hangs %s is replaced, and its child processes are killed', async (_, limits) => {
  const hung = await start(limits);
  await hang(hung[0]);
  await until(async () => running().some((pid) => !hung.includes(pid)) && !hung.some(isAlive));
  expect(hangs).toBe(1);
});

test('a part that hangs during its stop is killed after the timeout, with its child processes', async () => {
  const hung = await start({ maxMissedChecks: NEVER, endMs: 500 });
  await hang(hung[0]);
  const began = performance.now();
  await part?.stop();
  const ms = performance.now() - began;
  expect([ms > 450, ms < 10_000]).toEqual([true, true]);
  await until(async () => !hung.some(isAlive));
  expect(running()).toEqual([]);
});

test('a killed part is replaced, and one that answers its checks is kept', async () => {
  const [died = 0, ...others] = await start({ checkMs: 5, maxMissedChecks: 400 });
  process.kill(died, 'SIGKILL');
  await until(async () => running().length === 1 && !isAlive(died));
  expect(hangs).toBe(0);
  for (const pid of others) if (isAlive(pid)) process.kill(pid, 'SIGKILL');
});
