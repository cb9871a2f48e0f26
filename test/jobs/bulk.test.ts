import { sql } from 'drizzle-orm';
import type { JobFilter } from '../../db/jobs.ts';
import type { BulkAction } from '../../db/schema.ts';
import { advanceBulk, findBulk, startBulk } from '../../jobs/bulk.ts';
import { COMPLETED, FAILED_PERMANENTLY, type JobsFixture, openJobsFixture } from './fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const start = (action: BulkAction, filter: JobFilter = {}, owner: string | null = null) =>
  startBulk(fixture.db, fixture.queues, fixture.log, { owner, action, filter });
const advance = () => advanceBulk(fixture.db, fixture.queues, fixture.log);
const many = (count: number, job: object = {}) => fixture.submit(...Array.from({ length: count }, () => job));
const counts = async () => {
  const { rows } = await fixture.db.execute<{ status: string; count: number }>(
    sql`select status, count(*)::int from jobs group by status order by status`,
  );
  return Object.fromEntries(rows.map(({ status, count }) => [status, count]));
};

test('a small operation has completed when the call returns', async () => {
  await many(90);
  expect(await start('cancel')).toMatchObject({ status: 'completed', count: 90, done: 90, skipped: 0 });
  expect(await counts()).toEqual({ cancelled: 90 });
  expect(await start('retry')).toMatchObject({ status: 'completed', count: 90, done: 90 });
  expect(await counts()).toEqual({ ready: 90 });
  await fixture.finishAll();
  expect(await start('delete')).toMatchObject({ status: 'completed', count: 90, done: 90 });
  expect(await counts()).toEqual({});
  expect(await start('delete')).toMatchObject({ status: 'completed', count: 0, done: 0 });
});

test('many jobs are changed in batches by several processes, and the same call joins the operation', async () => {
  await many(450, { type: 'one' });
  const began = await start('cancel', { type: 'one' });
  expect(began).toMatchObject({ status: 'running', count: 450, done: 0 });
  await many(3, { type: 'one' });
  expect(await advance()).toBe(true);
  expect(await start('cancel', { type: 'one' })).toMatchObject({ id: began.id, done: 100 });
  expect((await start('cancel', { type: 'two' })).id).not.toBe(began.id);
  await Promise.all([fixture.continueChanges(), fixture.continueChanges(), fixture.continueChanges()]);
  expect(await findBulk(fixture.db, began.id)).toMatchObject({ status: 'completed', done: 450, skipped: 0 });
  // This job was submitted after the start of the operation.
  expect(await counts()).toEqual({ cancelled: 450, ready: 3 });
});

test('only jobs that match owner, status, type, priority and time are changed', async () => {
  await fixture.submit(
    { id: 'old', owner: 'a' },
    { id: 'mine', owner: 'a', priority: 'low' },
    { id: 'other-priority', owner: 'a' },
    { id: 'other-owner', owner: 'b', priority: 'low' },
    { id: 'later', owner: 'a', priority: 'low', runAt: new Date(Date.now() + 3_600_000) },
  );
  await fixture.db.execute(sql`update jobs set created_at = now() - interval '1 day' where id = 'old'`);
  const since = { createdAfter: new Date(Date.now() - 3_600_000) };
  expect(await start('cancel', { owner: 'a', status: 'ready', priority: 'low', ...since }, 'a')).toMatchObject({
    count: 1,
    done: 1,
  });
  expect(await start('cancel', { owner: 'a', createdBefore: since.createdAfter }, 'a')).toMatchObject({ done: 1 });
  expect(await fixture.statuses('old', 'mine', 'other-priority', 'other-owner', 'later')).toEqual([
    'cancelled',
    'cancelled',
    'ready',
    'ready',
    'scheduled',
  ]);
});

test('a deletion skips uploads, and dependants keep the outcomes of deleted jobs', async () => {
  const upload = await fixture.upload();
  await fixture.submit({ id: 'good' }, { id: 'wait', runAt: new Date(Date.now() + 3_600_000) });
  await fixture.submit({ id: 'after', dependsOn: ['good', 'wait'] });
  await fixture.finishAll();
  expect(await start('delete')).toMatchObject({ count: 1, done: 1 });
  await fixture.continueChanges();
  expect(await fixture.statuses('good', 'wait', 'after')).toEqual([undefined, 'scheduled', 'blocked']);
  expect((await fixture.findUpload(upload)).status).toBe('completed');
});

test('conversions are cancelled and retried with their uploads', async () => {
  const uploads = [await fixture.upload(2), await fixture.upload(1)];
  await many(5);
  expect(await start('cancel')).toMatchObject({ status: 'completed', count: 8, done: 8 });
  for (const id of uploads) expect((await fixture.findUpload(id)).status).toBe('cancelled');
  expect(await start('retry', { status: 'cancelled' })).toMatchObject({ count: 8, done: 8 });
  for (const id of uploads) expect((await fixture.findUpload(id)).status).toBe('processing');
});

test('a job that cannot be changed is skipped, and does not delay the others', async () => {
  const ids = await many(120);
  const poison = ids[40] ?? '';
  await fixture.db.execute(sql`create function refuse() returns trigger language plpgsql as $$ begin
    if new.status = 'cancelled' and new.payload ? 'poison' then raise exception 'refused'; end if; return new; end $$`);
  await fixture.db.execute(sql`update jobs set payload = '{"poison": true}' where id = ${poison}`);
  await fixture.db.execute(sql`create trigger refuse before update on jobs for each row execute function refuse()`);
  try {
    const { id } = await start('cancel');
    await fixture.continueChanges();
    expect(await findBulk(fixture.db, id)).toMatchObject({ status: 'completed', done: 119, skipped: 1 });
  } finally {
    await fixture.db.execute(sql`drop trigger refuse on jobs; drop function refuse`);
  }
  expect(await fixture.statuses(poison)).toEqual(['ready']);
});

test('each owner has a separate limit of operations', async () => {
  for (const type of ['a', 'b', 'c', 'd', 'e', 'f', 'g']) await many(101, { type });
  const begin = (type: string, owner: string) => start('cancel', { type }, owner);
  for (const type of ['a', 'b', 'c', 'd', 'e']) await begin(type, 'x');
  await expect(begin('f', 'x')).rejects.toMatchObject({ status: 429, code: 'too_many_requests' });
  expect(await begin('a', 'x')).toMatchObject({ status: 'running' });
  expect(await begin('g', 'y')).toMatchObject({ status: 'running' });
  await fixture.continueChanges();
  expect(await begin('f', 'x')).toMatchObject({ status: 'running' });
  await fixture.continueChanges();
  expect(await counts()).toEqual({ cancelled: 707 });
});

test('a job that fails again while an operation runs is not retried twice', async () => {
  await many(250);
  await fixture.finishAll(FAILED_PERMANENTLY);
  const { id } = await start('retry', { status: 'failed' });
  await advance();
  await fixture.finishAll(FAILED_PERMANENTLY);
  await fixture.continueChanges();
  expect(await findBulk(fixture.db, id)).toMatchObject({ status: 'completed', done: 250 });
  expect(await counts()).toEqual({ failed: 100, ready: 150 });
  await fixture.finishAll(COMPLETED);
});
