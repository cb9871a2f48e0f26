import { sql } from 'drizzle-orm';
import { LogRecorder } from '../../converter/log-recorder.ts';
import type { Event } from '../../db/events.ts';
import { listLogs } from '../../db/job-logs.ts';
import type { ClaimedJob } from '../../jobs/claim.ts';
import { COMPLETED, type JobsFixture, openJobsFixture } from '../jobs/fixture.ts';

let fixture: JobsFixture;
let job: ClaimedJob;
let recorder: LogRecorder;
beforeAll(async () => {
  fixture = await openJobsFixture();
  await fixture.db.execute(sql`create sequence writes minvalue 0 start 0`);
  await fixture.db.execute(
    sql`create function count_write() returns trigger language plpgsql as $$ begin perform nextval('writes'); return new; end $$`,
  );
  await fixture.db.execute(
    sql`create trigger count_writes before update on jobs for each row execute function count_write()`,
  );
});
beforeEach(async () => {
  await fixture.submit({ id: 'a' });
  job = await fixture.claimOne();
  await fixture.db.execute(sql`select setval('writes', 0)`);
  recorder = new LogRecorder(fixture.db, job, fixture.log);
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const line = (message: string, data?: Record<string, unknown>) =>
  recorder.record({ kind: 'log', level: 'info', message, data });
const progress = (done: number) => recorder.record({ kind: 'progress', progress: { done, total: 1_000 } });

async function storedLines(): Promise<Event[]> {
  return (await listLogs(fixture.db, 'a', { after: 0, limit: 5_000 })).filter(({ kind }) => kind === 'log');
}
/** The number of writes of progress: nothing else changes the row meanwhile. */
async function writes(): Promise<number> {
  const { rows } = await fixture.db.execute<{ count: string }>(sql`select last_value as count from writes`);
  return Number(rows[0]?.count);
}

test('lines are stored in order with their level, data and attempt', async () => {
  line('first');
  recorder.record({ kind: 'log', level: 'error', message: 'second', data: { page: 2 } });
  await recorder.close();
  expect(await storedLines()).toMatchObject([
    { message: 'first', level: 'info', attempt: 1, data: null, type: 'test' },
    { message: 'second', level: 'error', attempt: 1, data: { page: 2 } },
  ]);
});

test('lines after the thousandth are dropped, and the last stored line says so', async () => {
  for (let count = 1; count <= 2_500; count++) line(`line ${count}`);
  await recorder.close();
  const lines = await storedLines();
  expect(lines).toHaveLength(1_000);
  expect(lines.at(-2)?.message).toBe('line 999');
  expect(lines.at(-1)).toMatchObject({ level: 'warn', message: 'further lines are dropped' });
});

test('a task that logs faster than its lines are stored waits for them', async () => {
  for (let count = 1; count <= 101; count++) expect(line(`line ${count}`)).toBeUndefined();
  await line('line 102');
  expect((await storedLines()).length).toBeGreaterThan(0);
  await recorder.close();
  expect(await storedLines()).toHaveLength(102);
});

test('frequent progress is written a few times, including its last value', async () => {
  for (let done = 1; done <= 1_000; done++) progress(done);
  await recorder.close();
  expect(await writes()).toBeLessThanOrEqual(2);
  expect((await fixture.job('a')).progress).toEqual({ done: 1_000, total: 1_000 });
});

test('progress is written at most once per second and causes no event, while lines are written more often', async () => {
  const began = performance.now();
  for (let done = 1; performance.now() - began < 1_500; done++) {
    progress(done);
    if (done % 50 === 0) line('still here');
    await fixture.db.execute(sql`select 1`);
  }
  await recorder.close();
  expect(await writes()).toBeLessThanOrEqual(2 + Math.floor((performance.now() - began) / 1_000));
  expect((await fixture.events('a')).map(({ status }) => status)).toEqual(['ready', 'running']);
});

test('progress that cannot be stored delays neither lines nor the end', async () => {
  await fixture.db.execute(sql`create function refuse() returns trigger language plpgsql as
    $$ begin raise exception 'refused'; end $$`);
  await fixture.db.execute(sql`create trigger refuse before update on jobs for each row execute function refuse()`);
  progress(1);
  await recorder.close();
  await fixture.db.execute(sql`drop trigger refuse on jobs`);
  line('still here');
  await recorder.close();
  expect((await storedLines()).map(({ message }) => message)).toEqual(['still here']);
});

test('progress of an attempt that no longer owns its job is not stored', async () => {
  await fixture.settle(job, COMPLETED);
  progress(5);
  await recorder.close();
  expect((await fixture.job('a')).progress).toBeNull();
});

test('a recorder without reports can be closed', async () => {
  await recorder.close();
  expect(await storedLines()).toEqual([]);
});
