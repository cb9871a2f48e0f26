import { eq, sql } from 'drizzle-orm';
import pg from 'pg';
import { recordInspection, recordPages } from '../../conversion/record-pages.ts';
import { openDatabase } from '../../db/client.ts';
import {
  BEGINNING,
  CHANGES_CHANNEL,
  currentCursor,
  cursorAt,
  type Event,
  type EventCursor,
  type EventFilter,
  PROGRESS_CHANNEL,
  readEvents,
  readProgress,
} from '../../db/events.ts';
import { appendLogs, listLogs } from '../../db/job-logs.ts';
import { positionInQueue } from '../../db/jobs.ts';
import { migrateDatabase } from '../../db/migrate.ts';
import { events, uploads } from '../../db/schema.ts';
import { recentThroughput } from '../../db/system.ts';
import type { ClaimedJob } from '../../jobs/claim.ts';
import { recordProgress } from '../../jobs/progress.ts';
import { until } from '../support/service.ts';
import {
  COMPLETED,
  completedPage,
  FAILED,
  FAILED_PERMANENTLY,
  type JobsFixture,
  openJobsFixture,
  range,
} from './fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const readNow = (filter: EventFilter = {}, after = BEGINNING, limit = 1000) =>
  readEvents(fixture.db, { after, filter, limit });
const placeOf = (event: Event | undefined): EventCursor => (event ? { xact: event.xact, id: event.id } : BEGINNING);
/** Reads all events that were committed before the call, because other test files run transactions concurrently. */
async function read(...given: Parameters<typeof readNow>): Promise<Event[]> {
  const { rows } = await fixture.db.execute<{ next: string }>(
    sql`select pg_snapshot_xmax(pg_current_snapshot()) as next`,
  );
  await until(async () => {
    const oldest = await fixture.db.execute(
      sql`select pg_snapshot_xmin(pg_current_snapshot()) >= ${rows[0]?.next}::xid8 as old`,
    );
    return oldest.rows[0]?.old === true;
  });
  return readNow(...given);
}
const statusesOf = (events: Event[]) => events.map(({ status }) => status);

test('every change of status is one event, in order', async () => {
  await fixture.submit({ id: 'a', maxAttempts: 2 });
  await fixture.settle(await fixture.claimOne(), FAILED);
  await fixture.passBackoff();
  await fixture.settle(await fixture.claimOne(), { kind: 'returned' });
  await fixture.settle(await fixture.claimOne(), FAILED_PERMANENTLY);
  await fixture.retry('a');
  await fixture.cancel('a');
  const found = await read({ jobId: 'a' });
  expect(found.map(({ status, attempt, level }) => [status, attempt, level])).toEqual([
    ['ready', 0, 'info'],
    ['running', 1, 'info'],
    ['retrying', 1, 'warn'],
    ['ready', 1, 'info'],
    ['running', 2, 'info'],
    ['ready', 2, 'info'],
    ['running', 3, 'info'],
    ['failed', 3, 'error'],
    ['ready', 3, 'info'],
    ['cancelled', 3, 'info'],
  ]);
  expect(found[2]?.data).toEqual({ code: 'task_failed', message: FAILED.error.message });
  expect(found[7]?.data).toEqual({ code: 'corrupt_file', message: FAILED_PERMANENTLY.error.message });
  expect(found.every(({ kind, type }) => kind === 'job' && type === 'test')).toBe(true);
});

test('changes of dependants, children, pages and the upload have events, too', async () => {
  const upload = await fixture.upload();
  const parent = await fixture.claimOne();
  await fixture.submit({ id: 'after', dependsOn: [parent.id] });
  await recordInspection(fixture.db, parent, { pageCount: 1, selected: [[1, 1]] });
  await fixture.settle(parent, { kind: 'split', children: [range([1, 1])] });
  const child = await fixture.claimOne();
  await recordPages(fixture.db, child, [completedPage(1)]);
  await fixture.settle(child, COMPLETED);
  expect(statusesOf(await read({ jobId: 'after' }))).toEqual(['blocked', 'ready']);
  expect(statusesOf(await read({ jobId: parent.id }))).toEqual(['ready', 'running', 'completed']);
  const ofUpload = await read({ uploadId: upload });
  const ofItself = ofUpload.filter(({ kind }) => kind === 'upload');
  expect(ofItself.map(({ status, progress }) => [status, progress])).toEqual([
    ['queued', null],
    ['processing', { pages_done: 0, pages_total: null }],
    ['processing', { pages_done: 0, pages_total: 1 }],
    ['processing', { pages_done: 1, pages_total: 1 }],
    ['completed', { pages_done: 1, pages_total: 1 }],
  ]);
  expect(ofUpload.filter(({ kind }) => kind === 'page').map(({ status, data }) => [status, data])).toEqual([
    ['completed', { original: 1, page: 1 }],
  ]);
  expect(new Set(ofUpload.map(({ jobId }) => jobId))).toEqual(new Set([null, parent.id, child.id]));
});

test('progress is notified only while its attempt runs, and leaves no event', async () => {
  await fixture.submit({ id: 'a', owner: 'someone' });
  const job = await fixture.claimOne();
  const start = placeOf((await read({ jobId: 'a' })).at(-1));
  await recordProgress(fixture.db, job, { done: 1, total: 4 });
  await recordProgress(fixture.db, job, { done: 2, total: null });
  expect(await readProgress(fixture.db, ['a', 'unknown'], start)).toEqual([
    { owner: 'someone', jobId: 'a', uploadId: null, type: 'test', attempt: 1, progress: { done: 2, total: null } },
  ]);
  expect(await readProgress(fixture.db, ['a'], BEGINNING)).toEqual([]);
  await fixture.settle(job, COMPLETED);
  await recordProgress(fixture.db, job, { done: 3, total: 4 });
  expect(await readProgress(fixture.db, ['a'], start)).toEqual([]);
  expect(statusesOf(await read({ jobId: 'a' }))).toEqual(['ready', 'running', 'completed']);
});

test('changes of many jobs cost the same in a used session as in a fresh one', async () => {
  await fixture.submit(...Array(2_000).fill({ runAt: new Date(Date.now() + 3_600_000) }));
  await fixture.submit({ id: 'one' });
  const { pool, close } = await openDatabase(fixture.url, { name: 'test', log: fixture.log, max: 2 });
  const [fresh, used] = [await pool.connect(), await pool.connect()];
  // The fastest run counts, because other processes use the CPU.
  const quickest = async (client: typeof fresh) => {
    const taken: number[] = [];
    for (let round = 0; round < 3; round++) {
      const began = performance.now();
      await client.query('update jobs set attempt = attempt + 1');
      taken.push(performance.now() - began);
    }
    return Math.min(...taken);
  };
  try {
    await used.query(`update jobs set attempt = attempt + 1 where id = 'one'`);
    const expected = await quickest(fresh);
    expect(await quickest(used)).toBeLessThan(expected * 5);
  } finally {
    for (const client of [fresh, used]) client.release();
    await close();
  }
});

describe('a notification', () => {
  let client: pg.Client;
  let received: [channel: string, payload: string][];
  beforeEach(async () => {
    received = [];
    client = new pg.Client({ connectionString: fixture.url });
    await client.connect();
    client.on('notification', ({ channel, payload = '' }) => received.push([channel, payload]));
    for (const channel of [CHANGES_CHANNEL, PROGRESS_CHANNEL]) await client.query(`listen ${channel}`);
  });
  afterEach(() => client.end());
  /** Returns all notifications that were sent before the call: Postgres delivers them before the answer of a query. */
  const notified = async () => {
    await client.query('select 1');
    return received.splice(0);
  };

  test('names changed jobs, their progress, and uploads, even deleted ones', async () => {
    const upload = await fixture.upload();
    const job = await fixture.claimOne();
    expect(await notified()).toEqual([
      [CHANGES_CHANNEL, `{"jobs" : ["${job.id}"]}`],
      [CHANGES_CHANNEL, `{"uploads" : ["${upload}"]}`],
    ]);
    await recordProgress(fixture.db, job, { done: 1, total: 4 });
    await recordProgress(fixture.db, job, { done: 1, total: 4 });
    expect(await notified()).toEqual([[PROGRESS_CHANNEL, `{"jobs" : ["${job.id}"]}`]]);
    await fixture.deleteUpload(upload);
    expect((await notified()).at(-1)).toEqual([CHANGES_CHANNEL, `{"uploads" : ["${upload}"]}`]);
  });

  test('has a payload below the limit of Postgres, or no content', async () => {
    const ids = Array.from({ length: 70 }, (_, index) => `job ${index}`);
    const long = [...'abc'].map((letter) => letter + '\u{1f600}'.repeat(199));
    await fixture.submit(...ids.map((id) => ({ id })));
    await fixture.db.execute(sql`update jobs set attempt = attempt + 1`);
    const named = (await notified()).map(([, payload]) => JSON.parse(payload).jobs);
    expect(named.map(({ length }) => length)).toEqual([30, 30, 10]);
    expect(named.flat().toSorted()).toEqual(ids.toSorted());
    await fixture.empty();
    await fixture.submit(...long.flatMap((id) => [1, 2, 3, 4].map((n) => ({ id: `${id}${n}` }))));
    await fixture.db.execute(sql`update jobs set attempt = attempt + 1`);
    expect(await notified()).toEqual([[CHANGES_CHANNEL, '']]);
    await fixture.empty();
    await fixture.submit(...Array(1_001).fill({}));
    await fixture.db.execute(sql`update jobs set attempt = attempt + 1`);
    expect(await notified()).toEqual([[CHANGES_CHANNEL, '']]);
  });
});

test('an event with a lower id of a transaction that commits later is not skipped', async () => {
  const { pool, close } = await openDatabase(fixture.url, { name: 'test', log: fixture.log, max: 2 });
  const [early, late] = [await pool.connect(), await pool.connect()];
  try {
    const insert = "insert into events (kind, job_id, status) values ('job', $1, 'ready') returning id";
    await late.query('begin');
    const { rows: lower } = await late.query(insert, ['late']);
    await early.query('begin');
    const { rows: higher } = await early.query(insert, ['early']);
    expect(Number(lower[0].id)).toBeLessThan(Number(higher[0].id));
    await early.query('commit');
    const first = await readNow();
    expect(first).toEqual([]);
    await late.query('commit');
    const second = await read({}, placeOf(first.at(-1)));
    expect(second.map(({ jobId }) => jobId)).toEqual(['late', 'early']);
  } finally {
    for (const client of [early, late]) client.release();
    await close();
  }
});

test('a follower that reads while many write gets every event once', async () => {
  const ids = Array.from({ length: 60 }, (_, index) => `j${index}`);
  let writing = true;
  const writers = Promise.all(ids.map((id) => fixture.submit({ id }))).finally(() => {
    writing = false;
  });
  const seen: Event[] = [];
  for (let last = false; !last; ) {
    last = !writing;
    const more = await (last ? read : readNow)({}, placeOf(seen.at(-1)), 7);
    seen.push(...more);
    last &&= more.length === 0;
  }
  await writers;
  expect(seen.map(({ jobId }) => jobId).toSorted()).toEqual(ids.toSorted());
});

test('a follower continues after its last event', async () => {
  await fixture.submit({ id: 'a' });
  await fixture.submit({ id: 'b' });
  const [first, second] = (await read()) as [Event, Event];
  expect(await read({}, await cursorAt(fixture.db, first.id))).toEqual([second]);
  expect(await cursorAt(fixture.db, 0)).toEqual(BEGINNING);
  const now = await currentCursor(fixture.db);
  expect(now).toEqual(placeOf(second));
  expect(await read({}, now)).toEqual([]);
  expect(await readEvents(fixture.db, { after: BEGINNING, upTo: placeOf(first), limit: 10 })).toEqual([first]);
  await fixture.submit({ id: 'c' });
  expect((await read({}, now)).map(({ jobId }) => jobId)).toEqual(['c']);
});

test('a follower whose last event was deleted continues at the nearest one', async () => {
  for (const id of ['a', 'b', 'c']) await fixture.submit({ id });
  // A concurrent transaction of another test would repeat the nearest event.
  await fixture.db.execute(sql`update events set oldest_xact = xact`);
  const [, second, third] = (await read()) as [Event, Event, Event];
  await fixture.db.delete(events).where(eq(events.id, second.id));
  expect(await read({}, await cursorAt(fixture.db, second.id))).toEqual([third]);
  expect(await read({}, await cursorAt(fixture.db, third.id + 1_000))).toEqual([]);
});

test('a follower whose last event was deleted misses nothing, for any order of writes and commits', async () => {
  const { pool, close } = await openDatabase(fixture.url, { name: 'test', log: fixture.log, max: 3 });
  const [one, two, three] = [await pool.connect(), await pool.connect(), await pool.connect()];
  const insert = async (client: typeof one, job: string) => {
    const { rows } = await client.query(
      `insert into events (kind, job_id, status) values ('job', $1, 'ready') returning id::int`,
      [job],
    );
    return rows[0].id as number;
  };
  try {
    // The transactions begin in this order, and write in the opposite one.
    for (const client of [one, two, three]) await client.query('begin; select pg_current_xact_id()');
    await insert(three, 'last');
    await insert(two, 'middle');
    const seen = await insert(one, 'first');
    await one.query('commit');
    await until(async () => (await readNow()).length > 0);
    await fixture.db.delete(events).where(eq(events.id, seen));
    for (const client of [three, two]) await client.query('commit');
    const rest = await read({}, await cursorAt(fixture.db, seen));
    expect(rest.map(({ jobId }) => jobId)).toEqual(['middle', 'last']);
  } finally {
    for (const client of [one, two, three]) client.release();
    await close();
  }
});

test('each event has its owner, even after its upload was deleted', async () => {
  await fixture.submit({ id: 'a', owner: 'someone' }, { id: 'b', owner: 'other' }, { id: 'c' });
  const job = await fixture.upload(1, { owner: 'someone' });
  await fixture.db.update(uploads).set({ owner: 'someone' });
  const convert = (await fixture.claim()).find(({ type }) => type === 'convert') as ClaimedJob;
  await recordPages(fixture.db, convert, [completedPage(1)]);
  const own = await read({ owner: 'someone' });
  expect(new Set(own.map(({ kind, jobId }) => [kind, jobId].join()))).toEqual(
    new Set(['job,a', `job,${convert.id}`, 'upload,', 'page,']),
  );
  await fixture.deleteUpload(job);
  const ofUpload = await read({ owner: 'someone', uploadId: job });
  expect(ofUpload.map(({ kind, status }) => [kind, status])).toEqual([['upload', 'deleted']]);
  expect(await read({ owner: 'other', uploadId: job })).toEqual([]);
  expect((await read({ owner: 'someone' })).at(-1)).toEqual(ofUpload[0]);
  await fixture.finishAll();
});

test('the events of an owner are found by an index, in their order', async () => {
  const { rows } = await fixture.db.transaction(async (tx) => {
    await tx.execute(sql`set local enable_seqscan = off`);
    await tx.execute(sql`set local enable_sort = off`);
    return tx.execute<{ 'QUERY PLAN': string }>(sql`explain select * from events where owner = 'someone'
      and (xact, id) > ('1'::xid8, 1) and xact < pg_snapshot_xmin(pg_current_snapshot()) and kind <> 'log'
      order by xact, id limit 500`);
  });
  expect(rows.map((row) => row['QUERY PLAN']).join('\n')).toMatch(
    /Index Scan using events_owner.*\n *Index Cond: .*owner.*xact/,
  );
});

test('events of another cluster are read in the order of their ids, and hide no others', async () => {
  await fixture.submit({ id: 'a' });
  await fixture.submit({ id: 'b' });
  const [first, second] = (await read()) as [Event, Event];
  await fixture.db.execute(sql`update events set xact = '5000000000', oldest_xact = '5000000000'`);
  await migrateDatabase(fixture.url);
  await fixture.submit({ id: 'c' });
  const since = await read({}, await cursorAt(fixture.db, first.id));
  expect(since.map(({ jobId }) => jobId)).toEqual(['b', 'c']);
  // Events of this cluster keep their order.
  await migrateDatabase(fixture.url);
  expect(await read({}, await cursorAt(fixture.db, second.id))).toEqual(since.slice(1));
});

test('a log has no gap when a transaction that wrote an earlier line commits later', async () => {
  await fixture.submit({ id: 'a' });
  const { pool, close } = await openDatabase(fixture.url, { name: 'test-late', log: fixture.log, max: 1 });
  const late = await pool.connect();
  const pageAfter = async (after: number) => listLogs(fixture.db, 'a', { after, limit: 100 });
  try {
    await late.query(`begin; update jobs set attempt = attempt + 1 where id = 'a'`);
    let isAppended = false;
    const appending = appendLogs(fixture.db, { id: 'a', attempt: 1 }, [
      { at: new Date(), level: 'info', message: 'line' },
    ]).then(() => {
      isAppended = true;
    });
    await until(async () => {
      const waiting = await fixture.db.execute(
        sql`select 1 from pg_locks where not granted and pid in (select pid from pg_stat_activity where datname = current_database())`,
      );
      return isAppended || waiting.rows.length > 0;
    });
    const seen = await pageAfter(0);
    await late.query('commit');
    await appending;
    seen.push(...(await pageAfter(seen.at(-1)?.id ?? 0)));
    expect(seen).toEqual(await pageAfter(0));
    expect(seen.map(({ kind }) => kind)).toEqual(['job', 'job', 'log']);
  } finally {
    late.release();
    await close();
  }
});

test('the log of a job has its changes and its lines, in order and in pages', async () => {
  await fixture.submit({ id: 'a' }, { id: 'other' });
  const [job, other] = (await fixture.claim()).toSorted((a, b) => a.id.localeCompare(b.id)) as [ClaimedJob, ClaimedJob];
  const at = new Date('2026-01-01T00:00:00Z');
  const lines = [1, 2, 3].map((line) => ({ at, level: 'warn' as const, message: `line ${line}`, data: { line } }));
  await appendLogs(fixture.db, job, lines);
  await appendLogs(fixture.db, other, lines);
  await fixture.settle(job, COMPLETED);
  const all: Event[] = [];
  for (;;) {
    const page = await listLogs(fixture.db, 'a', { after: all.at(-1)?.id ?? 0, limit: 2 });
    all.push(...page);
    if (page.length < 2) break;
  }
  expect(all.map(({ kind, status, message }) => [kind, status ?? message])).toEqual([
    ['job', 'ready'],
    ['job', 'running'],
    ['log', 'line 1'],
    ['log', 'line 2'],
    ['log', 'line 3'],
    ['job', 'completed'],
  ]);
  expect(all[2]).toMatchObject({ at, level: 'warn', attempt: 1, data: { line: 1 } });
  expect((await read({ jobId: 'a' })).map(({ kind }) => kind)).toEqual(['job', 'job', 'job']);
});

test('throughput counts ended attempts by status', async () => {
  await fixture.submit({}, {}, {}, {});
  const [one, two, three] = (await fixture.claim()) as [ClaimedJob, ClaimedJob, ClaimedJob];
  await fixture.settle(one, COMPLETED);
  await fixture.settle(two, FAILED);
  await fixture.settle(three, { kind: 'returned' });
  await fixture.settle(one, COMPLETED);
  const rows = await recentThroughput(fixture.db, 5);
  const sum = (key: 'completed' | 'failed') => rows.reduce((total, row) => total + row[key], 0);
  expect([sum('completed'), sum('failed')]).toEqual([1, 1]);
  await fixture.db.execute(sql`update throughput set minute = minute - interval '10 minutes'`);
  expect(await recentThroughput(fixture.db, 5)).toEqual([]);
});

describe('the position in the queue', () => {
  const position = async (id: string) => positionInQueue(fixture.db, await fixture.job(id));

  test('counts all that start before, whatever their shape and priority', async () => {
    const big = { cpuUnits: 4, memoryMb: 2048 };
    await fixture.submit({ id: 'second', priority: 'high', shape: big });
    await fixture.submit({ id: 'third' });
    await fixture.submit({ id: 'fifth', priority: 'low' });
    await fixture.submit({ id: 'first', priority: 'critical' });
    await fixture.submit({ id: 'fourth', shape: big });
    expect(await Promise.all(['first', 'second', 'third', 'fourth', 'fifth'].map(position))).toEqual([1, 2, 3, 4, 5]);
  });

  test('is given to a blocked job as if it were ready', async () => {
    await fixture.submit(
      { id: 'a' },
      { id: 'urgent', priority: 'high', dependsOn: ['a'] },
      { id: 'b', dependsOn: ['a'] },
    );
    expect([await position('a'), await position('urgent'), await position('b')]).toEqual([1, 1, 2]);
  });

  test('is null for a job that does not wait for its turn', async () => {
    await fixture.submit({ id: 'later', runAt: new Date(Date.now() + 3_600_000) }, { id: 'a' });
    await fixture.claimOne();
    expect([await position('later'), await position('a')]).toEqual([null, null]);
    await fixture.finishAll();
  });

  test('is not counted beyond a thousand', async () => {
    const shapes = [
      { cpuUnits: 1, memoryMb: 256 },
      { cpuUnits: 2, memoryMb: 256 },
    ];
    for (const shape of shapes) await fixture.submit(...Array(700).fill({ shape, priority: 'high' }));
    await fixture.submit({ id: 'last' });
    expect(await position('last')).toBe(1000);
  });
});
