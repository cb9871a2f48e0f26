import { mkdir, mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { eq, type SQL, sql } from 'drizzle-orm';
import { pino } from 'pino';
import { recordPages } from '../../conversion/record-pages.ts';
import { Retention, type RetentionParts } from '../../conversion/retention.ts';
import { ORPHAN_AGE_MS, sweepStore } from '../../conversion/sweep-store.ts';
import { listExpiredUploads, overdueSeconds } from '../../db/retention.ts';
import { events, jobDependencies, jobs, uploads } from '../../db/schema.ts';
import { openDiskStore } from '../../store/disk.ts';
import { pagePath } from '../../store/paths.ts';
import type { Store } from '../../store/store.ts';
import { completedPage, FAILED_PERMANENTLY, type JobsFixture, openJobsFixture } from '../jobs/fixture.ts';
import { override } from '../support/override.ts';
import { until } from '../support/service.ts';

let fixture: JobsFixture;
let root: string;
let parts: RetentionParts;
/** Log lines of the test. */
let logged: { id?: string; upload?: string; msg: string }[];
beforeAll(async () => {
  fixture = await openJobsFixture();
});
beforeEach(async () => {
  root = await mkdtemp(path.join(tmpdir(), 'sheetmill-retention-'));
  logged = [];
  const log = pino({ level: 'error' }, { write: (line: string) => logged.push(JSON.parse(line)) });
  const { db, queues } = fixture;
  parts = { db, queues, log, store: await openDiskStore(root) };
});
afterEach(async () => {
  await fixture.expectSound();
  await rm(root, { recursive: true });
});
afterAll(() => fixture.close());

const GOING_ON = new AbortController().signal;
const DAYS = 30;
const OLD = ORPHAN_AGE_MS + 60_000;
const YEAR_AGO = sql`now() - interval '1 year'`;

const history = (retentionDays?: number) => new Retention(parts, retentionDays).round(GOING_ON);

/** Puts files of this age into the store. */
async function put(ageMs: number, ...paths: string[]): Promise<void> {
  const then = new Date(Date.now() - ageMs);
  for (const file of paths.map((relative) => path.join(root, relative))) {
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(file, 'content');
    await utimes(file, then, then);
  }
}

async function stored(): Promise<string[]> {
  const entries = await readdir(root, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile());
  return files.map((entry) => path.relative(root, path.join(entry.parentPath, entry.name))).sort();
}

/** An upload that completed this many days ago, with an original and a page in the store. */
async function ended(daysAgo = 0, outcome?: typeof FAILED_PERMANENTLY): Promise<{ id: string; files: string[] }> {
  const id = await fixture.upload();
  const attempt = await fixture.claimOne();
  const page = pagePath(id, 1, 1, '1');
  await recordPages(fixture.db, attempt, [{ ...completedPage(1), path: page } as never]);
  await fixture.settle(attempt, outcome ?? { kind: 'completed', result: {} });
  const files = [`uploads/${id}/originals/1.pdf`, page];
  await put(OLD, ...files);
  const finishedAt = sql`now() - make_interval(days => ${daysAgo})`;
  await fixture.db.update(uploads).set({ finishedAt }).where(eq(uploads.id, id));
  return { id, files };
}

const remaining = async () => (await fixture.db.select({ id: uploads.id }).from(uploads)).map(({ id }) => id);
const remainingJobs = async () => (await fixture.db.select({ id: jobs.id }).from(jobs)).map(({ id }) => id);

/** Jobs that ended a year ago, with an attempt each. */
async function oldJobs(count: number): Promise<string[]> {
  const { rows } = await fixture.db.execute<{ id: string }>(sql`
    insert into jobs (id, type, priority, arrived_at, payload, cpu_units, memory_mb, status, attempt, max_attempts, initial_delay_seconds,
      backoff_multiplier, timeout_seconds, created_at, finished_at)
    select 'old_' || to_char(n, 'FM00000'), 'test', 'normal', now(), '{}', 1, 256, 'completed', 1, 3, 1, 2, 300, ${YEAR_AGO}, ${YEAR_AGO}
    from generate_series(1, ${count}::int) n returning id`);
  await fixture.db.execute(sql`
    insert into job_attempts (job_id, attempt, status, converter_id, converter, cpu_units, memory_mb, finished_at)
    select id, 1, 'completed', gen_random_uuid(), 'past', 1, 256, finished_at from jobs where id like 'old%'`);
  return rows.map(({ id }) => id);
}

/** During `work`, a trigger runs `body` before each row of a table is deleted. */
async function onDelete(table: 'jobs' | 'uploads', body: SQL, work: () => Promise<void>): Promise<void> {
  await fixture.db.execute(
    sql`create function on_delete() returns trigger language plpgsql as $$ begin ${body} return old; end $$`,
  );
  await fixture.db.execute(
    sql`create trigger on_delete before delete on ${sql.raw(table)} for each row execute function on_delete()`,
  );
  try {
    await work();
  } finally {
    await fixture.db.execute(sql`drop function on_delete cascade`);
  }
}

test('history older than the retention is deleted with its files, and younger history is kept', async () => {
  const [old, young] = [await ended(DAYS + 1), await ended(DAYS - 1)];
  const running = await fixture.upload();
  await fixture.db.update(uploads).set({ createdAt: sql`now() - interval '1 year'` }).where(eq(uploads.id, running));
  await history(DAYS);
  expect((await remaining()).toSorted()).toEqual([young.id, running].toSorted());
  expect(await stored()).toEqual(young.files.toSorted());
  expect(old.files.every((file) => !file.includes(young.id))).toBe(true);
});

test('history is kept without a retention', async () => {
  const { id, files } = await ended(5_000);
  await fixture.db.update(events).set({ at: sql`now() - interval '10 years'` });
  await history();
  expect([await remaining(), await stored()]).toEqual([[id], files.toSorted()]);
  expect(await fixture.db.$count(events)).toBeGreaterThan(0);
});

test('an expired upload is deleted, even in progress', async () => {
  const { id: done } = await ended();
  const [running, later] = [await fixture.upload(2), await fixture.upload()];
  const claimed = await fixture.claim();
  await put(0, `uploads/${running}/originals/1.pdf`);
  const past = sql`now() - interval '1 second'`;
  for (const id of [done, running]) await fixture.db.update(uploads).set({ expiresAt: past }).where(eq(uploads.id, id));
  await fixture.db.update(uploads).set({ expiresAt: sql`now() + interval '1 hour'` }).where(eq(uploads.id, later));
  await history();
  expect(await remaining()).toEqual([later]);
  expect(await stored()).toEqual([]);
  expect(await fixture.db.$count(jobs)).toBe(1);
  for (const attempt of claimed) {
    expect(await fixture.settle(attempt, { kind: 'completed', result: {} })).toBe(attempt.uploadId === later);
  }
});

test('jobs without an upload, and events, are deleted by the same retention', async () => {
  await fixture.submit({ id: 'old' }, { id: 'young' }, { id: 'after', dependsOn: ['old'] });
  await fixture.finishAll();
  await fixture.submit({ id: 'waiting' });
  const yearAgo = sql`now() - interval '1 year'`;
  await fixture.db.update(jobs).set({ finishedAt: yearAgo }).where(eq(jobs.id, 'old'));
  await fixture.db.update(jobs).set({ createdAt: yearAgo }).where(eq(jobs.id, 'waiting'));
  await fixture.db.update(events).set({ at: yearAgo }).where(eq(events.jobId, 'old'));
  await history(DAYS);
  const left = await fixture.db.select({ id: jobs.id }).from(jobs);
  expect(left.map(({ id }) => id).toSorted()).toEqual(['after', 'waiting', 'young']);
  expect(await fixture.events('old')).toEqual([]);
  expect(await fixture.events('young')).toHaveLength(3);
});

test('an upload that is retried during a round is kept', async () => {
  for (let round = 0; round < 12; round++) {
    const { id } = await ended(DAYS + 1, FAILED_PERMANENTLY);
    const retries = () => fixture.retryUpload(id);
    const [, retried] = await (round % 2
      ? Promise.all([history(DAYS), retries()])
      : Promise.all([retries(), history(DAYS)]).then(([kept]) => [undefined, kept]));
    expect(await remaining()).toEqual(retried ? [id] : []);
    expect(await fixture.findings()).toEqual([]);
    await fixture.deleteUpload(id);
  }
});

test('a round continues when files cannot be removed, and the store sweep removes them later', async () => {
  const broken = await ended(DAYS + 1);
  const fine = await ended(DAYS + 1);
  const removeFolder: Store['removeFolder'] = async (folder) => {
    if (folder.includes(broken.id)) throw new Error('the disk is not there');
    await parts.store.removeFolder(folder);
  };
  const retention = new Retention({ ...parts, store: override(parts.store, { removeFolder }) }, DAYS);
  for (let round = 0; round < 2; round++) await retention.round(GOING_ON);
  expect(logged.map(({ upload }) => upload)).toEqual([broken.id]);
  expect(await remaining()).toEqual([]);
  expect(await stored()).toEqual(broken.files.toSorted());
  expect(fine.files).toHaveLength(2);
  await sweepStore(parts, GOING_ON);
  expect(await stored()).toEqual([]);
});

test('a row that cannot be deleted is logged once, and backs off', async () => {
  const [stuck, ...others] = [await ended(DAYS + 2), await ended(DAYS + 1), await ended(DAYS + 1)];
  await fixture.db.execute(sql`create sequence tries`);
  const refuse = sql.raw(`if old.id = '${stuck?.id}' then perform nextval('tries'); raise 'it is needed'; end if;`);
  await onDelete('uploads', refuse, async () => {
    const retention = new Retention(parts, DAYS);
    for (let round = 0; round < 3; round++) await retention.round(GOING_ON);
    expect(await remaining()).toEqual([stuck?.id]);
    expect(logged).toMatchObject([{ id: stuck?.id, msg: 'retention could not delete a row' }]);
    // The batch of three is halved twice.
    const { rows } = await fixture.db.execute<{ tries: number }>(sql`select last_value::int as tries from tries`);
    expect(rows[0]?.tries).toBeLessThanOrEqual(3);
    expect(others.length).toBe(2);
  });
  await fixture.db.execute(sql`drop sequence tries`);
  await history(DAYS);
  expect([await remaining(), await stored()]).toEqual([[], []]);
});

test('a job that cannot be deleted does not keep a thousand others', async () => {
  const ids = await oldJobs(1_000);
  const stuck = ids[333];
  await onDelete('jobs', sql.raw(`if old.id = '${stuck}' then raise 'it is needed'; end if;`), async () => {
    await history(DAYS);
    expect(await remainingJobs()).toEqual([stuck]);
    expect(logged).toMatchObject([{ id: stuck }]);
  });
});

test('a round skips locked rows, and the next one deletes them', async () => {
  const [held, free] = [await ended(DAYS + 1), await ended(DAYS + 1)];
  const [heldJob, freeJob] = await oldJobs(2);
  await fixture.db.update(uploads).set({ finishedAt: YEAR_AGO });
  await fixture.db.transaction(async (tx) => {
    await tx.execute(sql`select 1 from jobs where upload_id = ${held.id} or id = ${heldJob} for update`);
    await history(DAYS);
    expect(await remaining()).toEqual([held.id]);
    expect(await remainingJobs()).not.toContain(freeJob);
    expect(await remainingJobs()).toContain(heldJob);
  });
  expect(free.files.every((file) => !file.includes(held.id))).toBe(true);
  await history(DAYS);
  expect([await remaining(), await remainingJobs(), await stored()]).toEqual([[], [], []]);
});

test('concurrent converters share the work, and remove each folder once', async () => {
  for (let count = 0; count < 20; count++) await ended(DAYS + 1);
  await oldJobs(2_500);
  await fixture.db.update(uploads).set({ finishedAt: YEAR_AGO });
  await fixture.db.update(events).set({ at: YEAR_AGO });
  const removed: string[] = [];
  const removeFolder: Store['removeFolder'] = async (folder) => {
    removed.push(folder);
    await parts.store.removeFolder(folder);
  };
  const counted = { ...parts, store: override(parts.store, { removeFolder }) };
  await Promise.all([1, 2, 3].map(() => new Retention(counted, DAYS).round(GOING_ON)));
  await history(DAYS);
  expect([removed.length, new Set(removed).size]).toEqual([20, 20]);
  expect([await remaining(), await remainingJobs(), await stored(), logged]).toEqual([[], [], [], []]);
  // One event remains of each upload.
  expect(await fixture.db.$count(events)).toBe(20);
});

test('an interrupted batch is rolled back, and the next round repeats it', async () => {
  const ids = [(await ended(DAYS + 1)).id, (await ended(DAYS + 1)).id].toSorted();
  await fixture.db.transaction(async (tx) => {
    await tx.execute(sql`select pg_advisory_xact_lock(7)`);
    await onDelete('uploads', sql`perform pg_advisory_xact_lock(7);`, async () => {
      const cutOff = expect(history(DAYS)).rejects.toThrow();
      const pid = await until(async () => {
        const { rows } = await fixture.db.execute<{ pid: number }>(
          sql`select pid from pg_locks where locktype = 'advisory' and not granted and database = (
            select oid from pg_database where datname = current_database())`,
        );
        return rows[0]?.pid;
      });
      await fixture.db.execute(sql`select pg_terminate_backend(${pid}::int)`);
      await cutOff;
    });
  });
  expect((await remaining()).toSorted()).toEqual(ids);
  expect(await stored()).toHaveLength(4);
  await history(DAYS);
  expect([await remaining(), await stored()]).toEqual([[], []]);
});

test('jobs that depend on each other are deleted together, with their edges', async () => {
  await fixture.submit({ id: 'a' }, { id: 'b', dependsOn: ['a'] }, { id: 'c', dependsOn: ['b'] });
  await fixture.finishAll();
  await fixture.db.update(jobs).set({ finishedAt: YEAR_AGO });
  await history(DAYS);
  expect([await remainingJobs(), await fixture.db.$count(jobDependencies)]).toEqual([[], 0]);
});

test('a batch of uploads has a limited number of pages', async () => {
  const ids: string[] = [];
  for (let count = 0; count < 4; count++) ids.push((await ended(DAYS + 9 - count)).id);
  const list = async (pagesTotal: number) => {
    await fixture.db.update(uploads).set({ pagesTotal });
    const batch = { after: undefined, without: [], limit: 200 };
    return (await listExpiredUploads(fixture.db, { days: DAYS }, batch)).map(({ id }) => id);
  };
  expect(await list(1)).toEqual(ids);
  expect(await list(8_000)).toEqual(ids.slice(0, 2));
  expect(await list(1_000_000)).toEqual(ids.slice(0, 1));
});

test('the age of overdue rows is reported for each kind', async () => {
  expect(await overdueSeconds(fixture.db, DAYS)).toEqual({ uploads: 0, jobs: 0, events: 0 });
  const { id } = await ended(DAYS + 1);
  await fixture.submit({});
  await fixture.finishAll();
  await fixture.db.update(jobs).set({ finishedAt: sql`now() - make_interval(days => ${DAYS + 2})` });
  await fixture.db.update(events).set({ at: sql`now() - make_interval(days => ${DAYS + 3})` });
  const day = 86_400;
  const due = await overdueSeconds(fixture.db, DAYS);
  expect([due.uploads / day, due.jobs / day, due.events / day].map(Math.round)).toEqual([1, 2, 3]);
  expect(await overdueSeconds(fixture.db, undefined)).toEqual({ uploads: 0, jobs: 0, events: 0 });
  await fixture.db.update(uploads).set({ expiresAt: sql`now() - interval '5 days'` }).where(eq(uploads.id, id));
  expect(Math.round((await overdueSeconds(fixture.db, undefined)).uploads / day)).toBe(5);
  await history(DAYS);
  // The event of the deletion is new.
  expect(await overdueSeconds(fixture.db, DAYS)).toEqual({ uploads: 0, jobs: 0, events: 0 });
});
