import { sql } from 'drizzle-orm';
import type { Transaction } from '../../db/client.ts';
import { countReady, readUsage } from '../../db/usage.ts';
import { type JobsFixture, openJobsFixture } from '../jobs/fixture.ts';
import { rowsReadBy } from '../support/rows-read.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.empty());
afterAll(() => fixture.close());

const TOMORROW = new Date(Date.now() + 86_400_000);

test('the usage of an owner counts its waiting jobs only', async () => {
  await fixture.submit({ id: 'runs', owner: 'ann', payload: { text: 'not counted' } });
  await fixture.claimOne();
  await fixture.submit(
    { owner: 'ann', shape: { cpuUnits: 1, memoryMb: 256 }, payload: { a: 1 } },
    { owner: 'ann', shape: { cpuUnits: 1, memoryMb: 256 }, runAt: TOMORROW },
    { owner: 'ann', shape: { cpuUnits: 2, memoryMb: 512 }, dependsOn: ['runs'] },
    { owner: 'bob', shape: { cpuUnits: 3, memoryMb: 256 } },
    { shape: { cpuUnits: 4, memoryMb: 256 } },
  );
  const usage = { jobs: 3, payloadBytes: 7 + 2 + 2, shapes: new Set(['1/256', '2/512']) };
  expect(await readUsage(fixture.db, 'ann', 10, 10)).toEqual(usage);
  expect(await readUsage(fixture.db, 'ann', 2, 10)).toMatchObject({ jobs: 2 });
  expect(await readUsage(fixture.db, '', 10, 10)).toMatchObject({ jobs: 1, shapes: new Set(['4/256']) });
  expect(await readUsage(fixture.db, 'nobody', 10, 10)).toEqual({ jobs: 0, payloadBytes: 0, shapes: new Set() });
});

test('ready jobs beyond the limit of an owner do not count against others', async () => {
  await fixture.submit(
    ...Array.from({ length: 5 }, () => ({ owner: 'ann' })),
    ...Array.from({ length: 2 }, () => ({ owner: 'bob' })),
    ...Array.from({ length: 3 }, () => ({ owner: 'carol', runAt: TOMORROW })),
    ...Array.from({ length: 6 }, () => ({ owner: null })),
  );
  expect(await countReady(fixture.db, 100, 3)).toBe(3 + 2 + 6);
  expect(await countReady(fixture.db, 10, 3)).toBe(10);
});

test('usage and count read few of many rows', async () => {
  await fixture.db.execute(sql`
    insert into jobs (id, type, priority, arrived_at, payload, cpu_units, memory_mb, status, ready_at, queue_id, due_at, max_attempts,
      initial_delay_seconds, backoff_multiplier, timeout_seconds, owner)
    select 'job_' || n, 'test', 'normal', now(), '{}', 1 + n % 5, 256, case when n % 2 = 0 then 'ready' else 'scheduled' end,
      case when n % 2 = 0 then now() end, case when n % 2 = 0 then gen_random_uuid() end, case when n % 2 = 1 then now() + interval '1 day' end, 1, 1, 1, 1,
      case n % 3 when 0 then 'ann' when 1 then 'bob' end
    from generate_series(1, 60000) n`);
  await fixture.db.execute(sql`analyze jobs`);
  const looks: ((tx: Transaction) => Promise<unknown>)[] = [
    (tx) => readUsage(tx, 'ann', 100, 32),
    (tx) => readUsage(tx, '', 0, 32),
    (tx) => countReady(tx, 200, 50),
  ];
  for (const look of looks) {
    expect((await rowsReadBy(fixture.db, 'jobs', look)).read).toBeLessThan(1_000);
  }
  expect(await readUsage(fixture.db, 'ann', 100, 32)).toMatchObject({ jobs: 100 });
});
