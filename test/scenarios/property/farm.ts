import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { and, eq, sql } from 'drizzle-orm';
import { conversionDomain } from '../../../conversion/domain.ts';
import { openDatabase } from '../../../db/client.ts';
import { openQueues } from '../../../db/queues.ts';
import { converters } from '../../../db/schema.ts';
import { registerDomain } from '../../../jobs/domain.ts';
import type { Shape } from '../../../jobs/shape.ts';
import { createLogger } from '../../../runtime/log.ts';
import { cloneDatabase } from '../../support/database.ts';
import { until } from '../../support/service.ts';

const CONVERTER = fileURLToPath(new URL('../../../converter/main.ts', import.meta.url));
const TASKS = fileURLToPath(new URL('./tasks.ts', import.meta.url));

export type Farm = Awaited<ReturnType<typeof startFarm>>;

/**
 * A separate database, and one converter process of each capacity. A process that is killed or stopped is started
 * again. The heartbeat of one that has ended is set back, which is what the next 15 seconds would do.
 */
export async function startFarm(capacities: Shape[]) {
  registerDomain(conversionDomain);
  const { url, drop } = await cloneDatabase();
  const folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-farm-'));
  const log = createLogger('silent', {});
  const database = await openDatabase(url, { name: 'test', log });
  const { db } = database;
  const queues = await openQueues(db, { supervise: false, log });
  const slots: { child: ChildProcess; ready: boolean }[] = [];
  /** Names of converters by how their processes ended. */
  const killed = new Set<string>();
  const terminated = new Set<string>();
  const unexpected: string[] = [];
  const mourning = new Set<Promise<void>>();
  let stopping = false;

  function start(index: number, { cpuUnits, memoryMb }: Shape): void {
    const child = fork(CONVERTER, {
      env: {
        ...process.env,
        NODE_OPTIONS: '',
        DATABASE_URL: url,
        DATA_DIR: folder,
        TASKS,
        CAPACITY_CPU: String(cpuUnits),
        CAPACITY_MEMORY_MB: String(memoryMb),
        SHUTDOWN_GRACE_SECONDS: '0',
        LOG_LEVEL: process.env.LOG_LEVEL ?? 'error',
      },
    });
    const slot = { child, ready: false };
    slots[index] = slot;
    child.once('message', () => {
      slot.ready = true;
    });
    child.once('exit', (code, signal) => {
      if (stopping) return;
      const name = `${hostname()}-${child.pid}`;
      if (signal === 'SIGKILL') killed.add(name);
      else if (code === 0) terminated.add(name);
      else unexpected.push(`${name} ended with ${code ?? signal}`);
      const buried = bury(name)
        .catch((error) => unexpected.push(String(error)))
        .then(() => {
          mourning.delete(buried);
          if (!stopping && unexpected.length === 0) start(index, { cpuUnits, memoryMb });
        });
      mourning.add(buried);
    });
  }

  async function bury(name: string): Promise<void> {
    await db.execute(sql`
      insert into maintenance (last_seen_at, watched_since) values (now(), now() - interval '1 hour')
      on conflict (id) do update set last_seen_at = excluded.last_seen_at, watched_since = excluded.watched_since`);
    await db
      .update(converters)
      .set({ heartbeatAt: sql`now() - interval '1 hour'` })
      .where(and(eq(converters.name, name), eq(converters.status, 'live')));
  }

  /** Waits until every converter is up, and no row says so of one that is not. */
  async function allUp(): Promise<void> {
    await until(async () => {
      checkAlive();
      const names = slots.map(({ child }) => `${hostname()}-${child.pid}`);
      const live = await db.select({ name: converters.name }).from(converters).where(eq(converters.status, 'live'));
      return (
        slots.every(({ ready }) => ready) &&
        live.length === names.length &&
        live.every(({ name }) => names.includes(name))
      );
    }, 40_000);
  }

  /** Throws if a process ended unexpectedly. */
  function checkAlive(): void {
    if (unexpected.length > 0) throw new Error(unexpected.join('; '));
  }

  async function stop(): Promise<void> {
    stopping = true;
    await Promise.all(mourning);
    await Promise.all(
      slots.map(async ({ child }) => {
        if (child.exitCode !== null || child.signalCode !== null) return;
        const exited = once(child, 'exit');
        child.kill('SIGTERM');
        await exited;
      }),
    );
    await queues.close();
    await database.close();
    await drop();
    await rm(folder, { recursive: true, force: true });
  }

  for (const [index, capacity] of capacities.entries()) start(index, capacity);
  try {
    await allUp();
  } catch (error) {
    await stop();
    throw error;
  }

  return {
    db,
    queues,
    killed,
    terminated,
    allUp,
    checkAlive,
    /** Sends a signal to the converter of a slot, unless it is only just starting. */
    signal(index: number, signal: NodeJS.Signals): void {
      const slot = slots[index];
      if (slot?.ready) slot.child.kill(signal);
    },
    stop,
  };
}
