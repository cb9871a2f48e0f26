import type { ChildProcess } from 'node:child_process';
import { readdir, utimes } from 'node:fs/promises';
import path from 'node:path';
import { drizzle } from 'drizzle-orm/node-postgres';
import { ORPHAN_AGE_MS, sweepStore } from '../../conversion/sweep-store.ts';
import * as schema from '../../db/schema.ts';
import { createLogger } from '../../runtime/log.ts';
import { openDiskStore } from '../../store/disk.ts';
import { makeImage, makePdf, RED } from '../support/files.ts';
import { expectNothingLeft, type Service, startService, until } from '../support/service.ts';
import { isAlive, sandboxesOf } from './processes.ts';

let service: Service;
let converter: ChildProcess;
beforeAll(async () => {
  service = await startService({ converters: 0, env: { CAPACITY_CPU: '2', CAPACITY_MEMORY_MB: '2048' } });
  converter = await service.startConverter();
});
afterAll(() => service.stop());

const filesOf = async (id: string) => (await service.storedFiles()).filter((file) => file.includes(id));

/** Runs one round of maintenance now. */
async function sweep(): Promise<void> {
  const db = drizzle({ client: service.pool, schema });
  const store = await openDiskStore(path.join(service.folder, 'store'));
  const log = createLogger('silent', {});
  await sweepStore({ db, store, log }, new AbortController().signal);
}

test('an upload that is deleted while a converter writes its pages leaves nothing, even if the converter is killed', async () => {
  const pdf = await makePdf(Array.from({ length: 60 }, () => ({ width: 420, height: 420, color: RED })));
  const { body } = await service.upload([['slow.pdf', pdf]], { dpi: '400' });
  await until(async () => (await service.get(`/uploads/${body.id}/status`)).progress.pages_done > 1, 60_000);
  const sandboxes = sandboxesOf(converter.pid as number);
  // The sandboxes of the killed converter continue to work.
  converter.kill('SIGSTOP');
  expect((await service.delete(`/uploads/${body.id}`)).status).toBe(204);
  await service.end(converter, 'SIGKILL');
  await until(async () => !sandboxes.some(isAlive));

  // They have no path to the store. The converter may have been about to store a page.
  expect(await filesOf(body.id)).toEqual([]);
  const then = new Date(Date.now() - ORPHAN_AGE_MS - 60_000);
  for (const file of await service.storedFiles()) await utimes(path.join(service.folder, 'store', file), then, then);
  await sweep();
  expect(await service.storedFiles()).toEqual([]);

  converter = await service.startConverter();
  // The folder of the killed one is gone.
  expect(await readdir(path.join(service.folder, 'work'))).toEqual([expect.stringContaining(`-${converter.pid}-`)]);
  const next = await service.upload([['a.png', await makeImage()]]);
  expect((await service.done(next.body.id)).status).toBe('completed');
  await expectNothingLeft(service);
}, 180_000);

test('uploads that are cancelled, retried and deleted at random while they convert leave nothing broken', async () => {
  const pdf = await makePdf(Array.from({ length: 30 }, () => ({ width: 200, height: 200, color: RED })));
  const ids = await Promise.all(
    Array.from({ length: 6 }, async () => (await service.upload([['a.pdf', pdf]])).body.id as string),
  );
  const kept = new Set(ids);
  for (let round = 0; round < 5; round++) {
    await Promise.all(
      ids.map(async (id, index) => {
        const { status } = await service.post(`/uploads/${id}/${(round + index) % 2 ? 'cancel' : 'retry'}`);
        expect([200, 404, 409]).toContain(status);
        if (index !== round) return;
        expect((await service.delete(`/uploads/${id}`)).status).toBe(204);
        kept.delete(id);
      }),
    );
    expect(await service.audit()).toEqual([]);
  }
  for (const id of kept) {
    await service.post(`/uploads/${id}/retry`);
    expect(await service.done(id, 120_000)).toMatchObject({ status: 'completed', progress: { pages_done: 30 } });
  }
  const deleted = ids.filter((id) => !kept.has(id));
  await until(async () => !(await service.storedFiles()).some((file) => deleted.some((id) => file.includes(id))));
  expect(await service.audit()).toEqual([]);
}, 240_000);
