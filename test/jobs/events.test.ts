import { sql } from 'drizzle-orm';
import { openDatabase } from '../../db/client.ts';
import {
  appendLogs,
  currentCursor,
  cursorAt,
  type Event,
  type EventCursor,
  type EventFilter,
  listLogs,
  readEvents,
} from '../../db/events.ts';
import { positionInQueue } from '../../db/jobs.ts';
import { recentThroughput } from '../../db/system.ts';
import type { ClaimedJob } from '../../jobs/claim.ts';
import { recordInspection, recordPages } from '../../jobs/conversion.ts';
import { recordProgress } from '../../jobs/progress.ts';
import { until } from '../support/service.ts';
import {
  COMPLETED,
  completedPage,
  FAILED,
  FAILED_FOR_GOOD,
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

const BEGINNING: EventCursor = { xact: '0', id: 0 };
const readNow = (filter: EventFilter = {}, after = BEGINNING, limit = 1000) =>
  readEvents(fixture.db, { after, filter, limit });
const placeOf = (event: Event | undefined): EventCursor => (event ? { xact: event.xact, id: event.id } : BEGINNING);
/** Everything that was committed before the call: the tests of other files have transactions under way as well. */
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
  await fixture.settle(await fixture.claimOne(), FAILED_FOR_GOOD);
  await fixture.retry('a');
  await fixture.cancel('a');
  const events = await read({ jobId: 'a' });
  expect(events.map(({ status, attempt, level }) => [status, attempt, level])).toEqual([
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
  expect(events[2]?.data).toEqual({ code: 'task_failed', message: 'passes by itself' });
  expect(events[7]?.data).toEqual({ code: 'corrupt_file', message: 'stays as it is' });
  expect(events.every(({ kind, type }) => kind === 'job' && type === 'test')).toBe(true);
});

test('what hangs on a job is told as well: dependants, children, pages and the upload', async () => {
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
  const uploads = ofUpload.filter(({ kind }) => kind === 'upload');
  expect(uploads.map(({ status, progress }) => [status, progress])).toEqual([
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

test('progress is told while its attempt runs, and not after', async () => {
  await fixture.submit({ id: 'a' });
  const job = await fixture.claimOne();
  await recordProgress(fixture.db, job, { done: 1, total: 4 });
  await recordProgress(fixture.db, job, { done: 1, total: 4 });
  await recordProgress(fixture.db, job, { done: 2, total: null });
  await fixture.settle(job, COMPLETED);
  await recordProgress(fixture.db, job, { done: 3, total: 4 });
  expect((await read({ jobId: 'a' })).map(({ status, progress }) => [status, progress])).toEqual([
    ['ready', null],
    ['running', null],
    ['running', { done: 1, total: 4 }],
    ['running', { done: 2, total: null }],
    ['completed', { done: 2, total: null }],
  ]);
});

test('an event of a transaction that commits later is not skipped, though its id is the lower one', async () => {
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

test('a follower goes on after the event that it saw last, and from the start when that is unknown', async () => {
  await fixture.submit({ id: 'a' });
  await fixture.submit({ id: 'b' });
  const [first, second] = (await read()) as [Event, Event];
  expect(await read({}, await cursorAt(fixture.db, first.id))).toEqual([second]);
  for (const unknown of [0, second.id + 1000]) {
    expect(await cursorAt(fixture.db, unknown)).toEqual(BEGINNING);
    expect(await read({}, await cursorAt(fixture.db, unknown))).toHaveLength(2);
  }
  const now = await currentCursor(fixture.db);
  expect(await read({}, now)).toEqual([]);
  expect(await readEvents(fixture.db, { after: BEGINNING, upTo: placeOf(first), limit: 10 })).toEqual([first]);
  await fixture.submit({ id: 'c' });
  expect((await read({}, now)).map(({ jobId }) => jobId)).toEqual(['c']);
});

test('the log of a job has its changes and its own lines, in order and page by page', async () => {
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

test('throughput counts the attempts that ended, by how', async () => {
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

  test('is, of a blocked job, what it would be if it were ready now', async () => {
    await fixture.submit(
      { id: 'a' },
      { id: 'urgent', priority: 'high', dependsOn: ['a'] },
      { id: 'b', dependsOn: ['a'] },
    );
    expect([await position('a'), await position('urgent'), await position('b')]).toEqual([1, 1, 2]);
  });

  test('is nothing for a job that does not wait for its turn', async () => {
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
