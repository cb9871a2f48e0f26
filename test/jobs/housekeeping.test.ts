import { eq, sql } from 'drizzle-orm';
import { converters, jobs } from '../../db/schema.ts';
import { keepHouse } from '../../jobs/housekeeping.ts';
import { until } from '../support/service.ts';
import { COMPLETED, FAILED, type JobsFixture, openJobsFixture, SMALL } from './fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
  // Nobody is declared lost within 15 s after Postgres came up.
  await until(async () => {
    const { rows } = await fixture.db.execute(
      sql`select pg_postmaster_start_time() < now() - interval '15 seconds' as old`,
    );
    return rows[0]?.old === true;
  });
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const keep = () => keepHouse(fixture.db, fixture.queues, fixture.log);

async function beat(id: string, ageSeconds: number): Promise<void> {
  const heartbeatAt = sql`now() - make_interval(secs => ${ageSeconds})`;
  await fixture.db.update(converters).set({ heartbeatAt }).where(eq(converters.id, id));
}

async function statusOf(id: string) {
  const [row] = await fixture.db.select().from(converters).where(eq(converters.id, id));
  return row?.status;
}

test('the jobs of a converter without a heartbeat are lost attempts, and run again', async () => {
  const converter = await fixture.converter();
  const upload = await fixture.upload(2);
  const held = await fixture.claim(converter);
  await beat(converter.id, 16);
  await keep();
  expect(await statusOf(converter.id)).toBe('lost');
  for (const { id } of held) {
    expect(await fixture.job(id)).toMatchObject({ status: 'retrying', converterId: null });
    expect(await fixture.attempts(id)).toMatchObject([{ status: 'failed', error: { code: 'converter_lost' } }]);
  }
  expect((await fixture.findUpload(upload)).status).toBe('processing');
  await fixture.passBackoff();
  for (const job of await fixture.claim()) await fixture.settle(job, COMPLETED, null);
  expect((await fixture.findUpload(upload)).status).toBe('completed');
  for (const job of held) expect(await fixture.settle(job, COMPLETED, null)).toBe(false);
});

test('a converter with a fresh heartbeat keeps its jobs', async () => {
  const [fresh, quiet] = [await fixture.converter(), await fixture.converter()];
  const [kept = ''] = await fixture.submit({});
  await fixture.claimOne(fresh);
  const [keptToo = ''] = await fixture.submit({});
  await fixture.claimOne(quiet);
  await beat(quiet.id, 12);
  await keep();
  expect([await statusOf(fresh.id), await statusOf(quiet.id)]).toEqual(['live', 'live']);
  expect(await fixture.job(kept)).toMatchObject({ status: 'running', converterId: fresh.id });
  expect(await fixture.job(keptToo)).toMatchObject({ status: 'running', converterId: quiet.id });
});

test('what a converter left when it stopped is taken up again', async () => {
  const converter = await fixture.converter();
  await fixture.submit({});
  const job = await fixture.claimOne(converter);
  await fixture.db.update(converters).set({ status: 'stopped' });
  await keep();
  expect(await fixture.job(job.id)).toMatchObject({ status: 'retrying' });
});

test('a job that its last converter lost has failed with converter_lost', async () => {
  const upload = await fixture.upload(1, { maxAttempts: 1 });
  const converter = await fixture.converter();
  const job = await fixture.claimOne(converter);
  await beat(converter.id, 60);
  await keep();
  expect(await fixture.job(job.id)).toMatchObject({ status: 'failed', error: { code: 'converter_lost' } });
  expect(await fixture.findUpload(upload)).toMatchObject({ status: 'failed', error: { code: 'converter_lost' } });
});

test('a split job survives the converter that split it', async () => {
  const converter = await fixture.converter();
  await fixture.submit({});
  const parent = await fixture.claimOne(converter);
  const children = [{ type: 'test', payload: {}, shape: SMALL }];
  await fixture.settle(parent, { kind: 'split', children }, null);
  await beat(converter.id, 60);
  await keep();
  expect(await fixture.job(parent.id)).toMatchObject({ status: 'running', pendingChildren: 1 });
});

test('a job is sent when it is due, and not before', async () => {
  const [early = '', due = ''] = await fixture.submit({}, {});
  for (const job of await fixture.claim()) await fixture.settle(job, FAILED, null);
  await fixture.db.update(jobs).set({ dueAt: sql`now() + interval '1 hour'` }).where(eq(jobs.id, early));
  await fixture.db.update(jobs).set({ dueAt: sql`now() - interval '1 second'` }).where(eq(jobs.id, due));
  await keep();
  expect(await fixture.job(early)).toMatchObject({ status: 'retrying', queueId: null });
  expect(await fixture.job(due)).toMatchObject({ status: 'ready', dueAt: null });
});

test('housekeepers that work at the same time send each job once and lose each attempt once', async () => {
  const converter = await fixture.converter();
  const ids = await fixture.submit(
    ...Array.from({ length: 60 }, (_, index) => ({ shape: { cpuUnits: 1 + (index % 3), memoryMb: 256 } })),
  );
  const held = await fixture.claim(converter);
  expect(held).toHaveLength(60);
  for (const job of held.slice(0, 30)) await fixture.settle(job, { kind: 'returned' }, null);
  await beat(converter.id, 20);
  await Promise.all(Array.from({ length: 6 }, keep));
  await keep();
  expect(await fixture.findings()).toEqual([]);
  for (const [index, { id }] of held.entries()) {
    const attempts = await fixture.attempts(id);
    expect(attempts.map(({ status }) => status)).toEqual([index < 30 ? 'returned' : 'failed']);
  }
  await fixture.passBackoff();
  const claimed = await fixture.claim();
  expect(claimed.map(({ id }) => id).toSorted()).toEqual(ids.toSorted());
});

test('a lost attempt that cannot be settled does not keep the others from it', async () => {
  const converter = await fixture.converter();
  await fixture.submit({ id: 'poison' }, { id: 'victim' });
  await fixture.claim(converter);
  await beat(converter.id, 60);
  await fixture.db.execute(sql`create function refuse() returns trigger language plpgsql as $$ begin
    if new.id = 'poison' then raise exception 'refused'; end if; return new; end $$`);
  await fixture.db.execute(sql`create trigger refuse before update on jobs for each row execute function refuse()`);
  try {
    await keep();
    expect(await fixture.statuses('poison', 'victim')).toEqual(['running', 'retrying']);
  } finally {
    await fixture.db.execute(sql`drop trigger refuse on jobs; drop function refuse`);
  }
  await keep();
  expect(await fixture.statuses('poison')).toEqual(['retrying']);
});

test('a round with nothing to do changes nothing', async () => {
  await fixture.submit({});
  const before = await fixture.db.select().from(jobs);
  await keep();
  expect(await fixture.db.select().from(jobs)).toEqual(before);
});
