import pg from 'pg';
import type { Changes } from '../../../api/events/changes.ts';
import { createEventHub, type EventHub } from '../../../api/events/event-hub.ts';
import { warnOfLag } from '../../../api/events/events-lag.ts';
import { findOldestTransaction, readEventsHealth } from '../../../db/events.ts';
import { recordProgress } from '../../../jobs/progress.ts';
import { COMPLETED, type JobsFixture, openJobsFixture } from '../../jobs/fixture.ts';
import { type Json, until } from '../../support/service.ts';

let fixture: JobsFixture;
let hub: EventHub;
const leaving = new AbortController();
beforeAll(async () => {
  fixture = await openJobsFixture();
  hub = createEventHub({ db: fixture.db, heavyDb: fixture.db, databaseUrl: fixture.url, log: fixture.log });
});
afterEach(() => fixture.expectSound());
afterAll(async () => {
  leaving.abort();
  await hub.close();
  await fixture.close();
});

/** Gives the events of one job as they are sent. */
async function follow(jobId: string, after: number | undefined): Promise<Json[]> {
  const events: Json[] = [];
  const add = (bytes: Buffer) => void events.push(JSON.parse(String(bytes)));
  const client = {
    sendHistory: async (messages: Buffer[]) => messages.forEach(add),
    send: add,
    onOverrun: () => undefined,
  };
  await hub.follow({ jobId }, after, client, leaving.signal);
  return events;
}

/** Does `work` during an open transaction of another database of the same Postgres. */
async function whileTransactionIsOpen(work: (pid: number) => Promise<void>): Promise<void> {
  const client = new pg.Client({ connectionString: process.env.TEST_POSTGRES_URL });
  await client.connect();
  try {
    await client.query('begin; select pg_current_xact_id()');
    const { rows } = await client.query('select pg_backend_pid() as pid');
    await work(rows[0].pid);
  } finally {
    await client.end();
  }
}

test('progress is sent between the start and the end of its attempt, with the id of the event before it', async () => {
  await fixture.submit({ id: 'a' });
  const events = await follow('a', 0);
  const job = await fixture.claimOne();
  await until(async () => events.at(-1)?.status === 'running');
  for (const done of [1, 2]) {
    await recordProgress(fixture.db, job, { done, total: 4 });
    await until(async () => events.at(-1)?.progress?.done === done);
  }
  await fixture.settle(job, COMPLETED);
  await until(async () => events.at(-1)?.status === 'completed');
  expect(events.map(({ kind, status, attempt, progress }) => [kind, status, attempt, progress])).toEqual([
    ['job', 'ready', 0, null],
    ['job', 'running', 1, null],
    ['job', 'running', 1, { done: 1, total: 4 }],
    ['job', 'running', 1, { done: 2, total: 4 }],
    ['job', 'completed', 1, { done: 2, total: 4 }],
  ]);
  expect(events.slice(2, 4).map(({ id }) => id)).toEqual([events[1].id, events[1].id]);
  const kept = (await fixture.events('a')).map(({ id }) => id);
  expect(kept).toEqual([events[0].id, events[1].id, events[4].id]);
});

test('an open transaction of another database delays the stream with a warning, and no change', async () => {
  const changes: Changes[] = [];
  const stop = hub.onChange((change) => changes.push(change));
  const warnings: unknown[][] = [];
  const log = { warn: (...args: unknown[]) => warnings.push(args), info: () => undefined, debug: () => undefined };
  const lagWarnings = warnOfLag(fixture.db, log, { checkMs: 20, maxLagSeconds: 0.2 });
  await fixture.submit({ id: 'a' });
  const job = await fixture.claimOne();
  try {
    await whileTransactionIsOpen(async (pid) => {
      await fixture.settle(job, COMPLETED);
      await until(async () => changes.some((change) => change !== 'all' && change.jobIds.includes('a')));
      await until(async () => warnings.length > 0);
      expect((await readEventsHealth(fixture.db)).lagSeconds).toBeGreaterThan(0.2);
      // Older transactions of other tests end, and leave this one as the oldest.
      await until(async () => (await findOldestTransaction(fixture.db))?.pid === pid);
      expect(await findOldestTransaction(fixture.db)).toMatchObject({ pid, seconds: expect.any(Number) });
    });
    await until(async () => (await readEventsHealth(fixture.db)).lagSeconds === 0);
  } finally {
    stop();
    await lagWarnings.close();
  }
  // A statement of another test may be the oldest transaction, so its session is not compared.
  expect(warnings[0]).toEqual([
    { lagSeconds: expect.any(Number), oldest: expect.objectContaining({ xid: expect.any(String) }) },
    'an open transaction delays the stream of events',
  ]);
});

test('an unreadable NOTIFY is reported as a change of all rows', async () => {
  const changes: Changes[] = [];
  const stop = hub.onChange((change) => changes.push(change));
  for (const payload of ['', 'nonsense', '{"jobs": 1}', '{"uploads": ["u", 2]}']) {
    await fixture.db.$client.query(`select pg_notify('sheetmill_changes', $1)`, [payload]);
  }
  await until(async () => changes.length >= 4);
  stop();
  expect(changes.slice(-4)).toEqual(['all', 'all', { jobIds: [], uploadIds: [] }, { jobIds: [], uploadIds: ['u'] }]);
});
