import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { loadTasks } from '../../conversion/registry.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-tasks-'));
});
afterAll(() => rm(folder, { recursive: true }));

test.each([
  ['concurrency', { perType: 0 }, 'concurrency.perType: must be a whole number from 1 to 10000'],
  ['concurrency', { perKey: 1.5 }, 'concurrency.perKey: must be a whole number from 1 to 10000'],
  ['rate', { limit: 5 }, 'rate.per_seconds: must be a whole number from 1 to 86400'],
])('a task with the %s %j is refused', async (name, limit, message) => {
  const file = path.join(folder, `${crypto.randomUUID()}.mjs`);
  const task = `type: 'mail', payload: { safeParse() {} }, resources: { cpuUnits: 1, memoryMb: 256 }, run() {}`;
  await writeFile(file, `export default [{ ${task}, ${name}: ${JSON.stringify(limit)} }];`);
  await expect(loadTasks(file)).rejects.toThrow(`TASKS=${file}: mail: ${message}`);
});
