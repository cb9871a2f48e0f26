import { eq, sql } from 'drizzle-orm';
import { converters, jobAttempts, jobs } from '../../db/schema.ts';
import { maintain } from '../../jobs/maintenance.ts';
import { until } from '../support/service.ts';
import { COMPLETED, type JobsFixture, openJobsFixture, SMALL } from './fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const keep = () => fixture.maintain();

async function beat(id: string, ageSeconds: number): Promise<void> {
  const heartbeatAt = sql`now() - make_interval(secs => ${ageSeconds})`;
  await fixture.db.update(converters).set({ heartbeatAt }).where(eq(converters.id, id));
}

async function statusOf(id: string) {
  const [row] = await fixture.db.select().from(converters).where(eq(converters.id, id));
  return row?.status;
}

test('jobs of a converter without a heartbeat run again', async () => {
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

test('jobs of a stopped converter run again', async () => {
  const converter = await fixture.converter();
  await fixture.submit({});
  const job = await fixture.claimOne(converter);
  await fixture.db.update(converters).set({ status: 'stopped' });
  await keep();
  expect(await fixture.job(job.id)).toMatchObject({ status: 'retrying' });
});

test('a job whose last attempt was lost fails with converter_lost', async () => {
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

test('concurrent leaders settle each lost attempt once', async () => {
  const converter = await fixture.converter();
  const ids = await fixture.submit(
    ...Array.from({ length: 60 }, (_, index) => ({ shape: { cpuUnits: 1 + (index % 3), memoryMb: 256 } })),
  );
  const held = await fixture.claim(converter);
  expect(held).toHaveLength(60);
  for (const job of held.slice(0, 30)) await fixture.settle(job, { kind: 'returned' }, null);
  await beat(converter.id, 20);
  await fixture.watched(60);
  await Promise.all(Array.from({ length: 6 }, () => maintain(fixture.db, fixture.queues, fixture.log)));
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

test('a round with nothing to do changes nothing', async () => {
  await fixture.submit({});
  const before = await fixture.db.select().from(jobs);
  await keep();
  expect(await fixture.db.select().from(jobs)).toEqual(before);
});

/** The next round of the leader, even within the same second. */
const nextRound = () => maintain(fixture.db, fixture.queues, fixture.log);

describe('after an outage', () => {
  test('no converter is declared lost before each had the time of a late heartbeat to return', async () => {
    const [back, gone] = [await fixture.converter(), await fixture.converter()];
    await fixture.submit({ maxAttempts: 1 });
    const kept = await fixture.claimOne(back);
    await fixture.submit({ maxAttempts: 1 });
    const lost = await fixture.claimOne(gone);
    // No converter reached Postgres for an hour.
    await fixture.watched(3_600, 3_600);
    for (const { id } of [back, gone]) await beat(id, 3_600);
    await nextRound();
    expect([await statusOf(back.id), await statusOf(gone.id)]).toEqual(['live', 'live']);
    await fixture.watched(13);
    await beat(back.id, 0);
    await nextRound();
    expect([await statusOf(back.id), await statusOf(gone.id)]).toEqual(['live', 'live']);
    await fixture.watched(15);
    await nextRound();
    expect([await statusOf(back.id), await statusOf(gone.id)]).toEqual(['live', 'lost']);
    expect([(await fixture.job(kept.id)).status, (await fixture.job(lost.id)).status]).toEqual(['running', 'failed']);
  });

  test.each([
    ['after a gap of six seconds', 6],
    ['on a primary whose clock is behind', -30],
  ])('the watch restarts %s', async (_what, secondsAgo) => {
    const converter = await fixture.converter(60);
    await fixture.watched(3_600, secondsAgo);
    await nextRound();
    expect(await statusOf(converter.id)).toBe('live');
    const { rows } = await fixture.db.execute(sql`
      select last_seen_at = watched_since as fresh, last_seen_at <= now() as past from maintenance`);
    expect(rows).toEqual([{ fresh: true, past: true }]);
  });

  test('a gap of four seconds does not restart the watch, and a second round within a second does nothing', async () => {
    const converter = await fixture.converter(60);
    await fixture.watched(60, 0.1);
    await nextRound();
    expect(await statusOf(converter.id)).toBe('live');
    await fixture.watched(60, 4);
    await nextRound();
    expect(await statusOf(converter.id)).toBe('lost');
  });

  test('the converter settles attempts that exceeded their timeout during an outage', async () => {
    await fixture.submit({ timeoutSeconds: 10 });
    const job = await fixture.claimOne();
    await fixture.db.update(jobAttempts).set({ startedAt: sql`now() - interval '1 hour'` });
    await fixture.watched(3_600, 600);
    await nextRound();
    expect(await fixture.job(job.id)).toMatchObject({ status: 'running' });
    expect(await fixture.settle(job, COMPLETED)).toBe(true);
  });
});

describe('a running attempt', () => {
  const age = (seconds: number) =>
    fixture.db.update(jobAttempts).set({ startedAt: sql`now() - make_interval(secs => ${seconds})` });

  test('fails with timeout a minute after its timeout, and is retried', async () => {
    const [id = ''] = await fixture.submit({ timeoutSeconds: 10, maxAttempts: 2 });
    for (const status of ['retrying', 'failed']) {
      const job = await fixture.claimOne();
      await age(69);
      await keep();
      expect((await fixture.job(id)).status).toBe('running');
      await age(71);
      expect(await fixture.findings()).toMatchObject([{ invariant: 'no job runs past its timeout', examples: [id] }]);
      await keep();
      expect(await fixture.job(id)).toMatchObject({
        status,
        error: { code: 'timeout', message: 'took longer than 10 s' },
      });
      expect(await fixture.settle(job, COMPLETED)).toBe(false);
      await fixture.passBackoff();
    }
  });

  test('gets its whole timeout again after a wait for the store', async () => {
    await fixture.submit({ timeoutSeconds: 10 });
    const job = await fixture.claimOne();
    await age(3_600);
    await fixture.db.update(jobAttempts).set({ waitedAt: sql`now() - interval '60 seconds'` });
    await keep();
    expect(await fixture.job(job.id)).toMatchObject({ status: 'running' });
    await fixture.db.update(jobAttempts).set({ waitedAt: sql`now() - interval '71 seconds'` });
    await keep();
    expect(await fixture.job(job.id)).toMatchObject({ status: 'retrying' });
  });

  test('has no timeout while its job waits for its children', async () => {
    await fixture.submit({ timeoutSeconds: 10 });
    const parent = await fixture.claimOne();
    await fixture.settle(parent, { kind: 'split', children: [{ type: 'test', payload: {}, shape: SMALL }] }, null);
    await age(3_600);
    await keep();
    expect(await fixture.job(parent.id)).toMatchObject({ status: 'running', pendingChildren: 1 });
  });
});

test('a converter whose claim waits for a lock still sends heartbeats', async () => {
  const converter = await fixture.converter();
  await fixture.submit({});
  const release = Promise.withResolvers<void>();
  const held = Promise.withResolvers<void>();
  const migration = fixture.db.transaction(async (tx) => {
    await tx.execute(sql`lock table jobs in share mode`);
    held.resolve();
    await release.promise;
  });
  await held.promise;
  const claiming = fixture.claimOnce(converter);
  await until(async () => {
    const { rows } = await fixture.db.execute(sql`
      select from pg_locks where not granted and relation = 'jobs'::regclass and mode = 'RowExclusiveLock'`);
    return rows.length > 0;
  });
  await beat(converter.id, 60);
  await beat(converter.id, 0);
  await keep();
  expect(await statusOf(converter.id)).toBe('live');
  release.resolve();
  await migration;
  expect(await claiming).toHaveLength(1);
});

test('a lost attempt that cannot be settled does not block the others', async () => {
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
