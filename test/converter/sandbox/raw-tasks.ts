import { writeSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { defineTask } from '../../../jobs/task.ts';

/** The file descriptor that connects a sandbox with its converter. */
const CONNECTION = 3;
const STDOUT = 1;

/** A module for `TASKS`. Writes to the converter like a compromised sandbox. */
const writeRaw = defineTask({
  type: 'write_raw',
  payload: z.strictObject({
    text: z.string(),
    times: z.int().default(1),
    to: z.enum(['converter', 'stdout']).default('converter'),
    end: z.boolean().default(false),
  }),
  resources: { cpuUnits: 1, memoryMb: 256 },
  async run({ payload: { text, times, to, end } }) {
    const bytes = Buffer.from(text, 'latin1');
    for (let count = 0; count < times; count++) writeAll(to === 'stdout' ? STDOUT : CONNECTION, bytes);
    if (!end) await delay(60_000);
    return {};
  },
});

/** Waits until the converter reads again. */
function writeAll(descriptor: number, bytes: Buffer): void {
  const clock = new Int32Array(new SharedArrayBuffer(4));
  for (let at = 0; at < bytes.length; ) {
    try {
      at += writeSync(descriptor, bytes, at);
    } catch (error) {
      if (Object(error).code !== 'EAGAIN') throw error;
      Atomics.wait(clock, 0, 0, 1);
    }
  }
}

/** Returns its process id. */
const whereAmI = defineTask({
  type: 'where_am_i',
  payload: z.strictObject({}),
  resources: { cpuUnits: 1, memoryMb: 256 },
  run: async () => ({ pid: process.pid }),
});

/** Reports progress and far more log lines than are stored, without a pause. */
const chatter = defineTask({
  type: 'chatter',
  payload: z.strictObject({}),
  resources: { cpuUnits: 1, memoryMb: 256 },
  async run({ log, progress }) {
    for (let count = 1; count <= 200_000; count++) {
      progress(count, 200_000);
      log('info', `line ${count}`, { count });
    }
    return {};
  },
});

export default [writeRaw, whereAmI, chatter];
