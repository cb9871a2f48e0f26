import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { eq, sql } from 'drizzle-orm';
import { startWorker } from '../../converter/worker.ts';
import { converters } from '../../db/schema.ts';
import { parseConfig } from '../../runtime/config.ts';
import { openDiskStore } from '../../store/disk.ts';
import { type JobsFixture, openJobsFixture } from '../jobs/fixture.ts';

let fixture: JobsFixture;
let folder: string;
beforeAll(async () => {
  fixture = await openJobsFixture();
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-worker-'));
});
afterAll(async () => {
  await rm(folder, { recursive: true });
  await fixture.close();
});

async function start() {
  return startWorker({
    ...{ db: fixture.db, databaseUrl: fixture.url, queues: fixture.queues, log: fixture.log },
    store: await openDiskStore(path.join(folder, 'store')),
    tasks: new Map(),
    config: parseConfig({ DATA_DIR: folder, CAPACITY_CPU: '1' }),
  });
}

const workFolders = () => readdir(path.join(folder, 'work'));

test('a worker removes its work folder and marks its row when it stops', async () => {
  const worker = await start();
  expect(await workFolders()).toHaveLength(1);
  await worker.stop(0);
  expect(await workFolders()).toEqual([]);
  const rows = await fixture.db.select().from(converters).where(eq(converters.id, worker.id));
  expect(rows).toMatchObject([{ status: 'stopped' }]);
});

test('a worker that cannot register leaves no work folder behind', async () => {
  await fixture.db.execute(sql`create function refuse() returns trigger language plpgsql as
    $$ begin raise exception 'refused'; end $$`);
  await fixture.db.execute(
    sql`create trigger refuse before insert on converters for each row execute function refuse()`,
  );
  await expect(start()).rejects.toThrow();
  expect(await workFolders()).toEqual([]);
});
