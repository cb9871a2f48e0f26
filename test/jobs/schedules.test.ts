import { eq, like, sql } from 'drizzle-orm';
import { openDatabase } from '../../db/client.ts';
import { openQueues } from '../../db/queues.ts';
import { lockDueSchedules, millisecondsToNextRun, type Schedule } from '../../db/schedules.ts';
import { converters, jobs, schedules } from '../../db/schema.ts';
import { putSchedule, type Run, runDueSchedules, runScheduleNow } from '../../jobs/schedules.ts';
import { rowsReadBy } from '../support/rows-read.ts';
import { startWay } from '../support/tcp-proxy.ts';
import { type JobsFixture, openJobsFixture, SMALL } from './fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const EVERY_MINUTE = '* * * * *';
const ONCE_A_YEAR = '0 3 1 1 *';
const MAX = 2_000;

const job = { type: 'test', priority: 'normal' as const, payload: {}, shape: SMALL };

function put(name: string, more: Partial<Schedule> = {}): Promise<Schedule> {
  const schedule = {
    ...{ owner: null, name, cron: ONCE_A_YEAR, timezone: 'UTC', paused: false },
    ...{ overlap: 'allow' as const, missed: 'once' as const, job: { request: { type: 'test' }, job } },
    ...more,
  };
  return putSchedule(fixture.db, schedule, MAX);
}

async function stored(name: string): Promise<Schedule> {
  const [schedule] = await fixture.db.select().from(schedules).where(eq(schedules.name, name));
  if (schedule === undefined) throw new Error(`no schedule ${name}`);
  return schedule;
}

/** Makes schedules due since some minutes, and a week old. Returns the due time. */
async function makeDue(pattern = '%', minutesAgo = 0): Promise<Date> {
  const [due] = await fixture.db
    .update(schedules)
    .set({
      nextRunAt: sql`date_trunc('minute', now()) - make_interval(mins => ${minutesAgo})`,
      createdAt: sql`now() - interval '1 week'`,
    })
    .where(like(schedules.name, pattern))
    .returning({ at: schedules.nextRunAt });
  if (!due?.at) throw new Error(`no schedule is like ${pattern}`);
  return due.at;
}

async function runAll(db = fixture.db, queues = fixture.queues): Promise<Run[]> {
  const all: Run[] = [];
  for (;;) {
    const runs = await runDueSchedules(db, queues);
    if (runs.length === 0) return all;
    all.push(...runs);
  }
}

const outcomes = (runs: Run[]) => runs.map(({ schedule, result }) => `${schedule.name} ${result.outcome}`).sort();
const jobIds = async () => (await fixture.db.select({ id: jobs.id }).from(jobs).orderBy(jobs.id)).map(({ id }) => id);
const jobIdOf = ({ id }: Schedule, time: Date) => `job_${id}_${time.toISOString().replace(/[-:]|\.\d+/g, '')}`;

async function fill(count: number, more: { nextRunAt: unknown }): Promise<void> {
  await put('pattern');
  await fixture.db.execute(sql`
    insert into schedules (id, name, cron, timezone, job, next_run_at, created_at)
      select gen_random_uuid(), 'filled-' || n, cron, timezone, job, ${more.nextRunAt}, now() - interval '1 week'
      from schedules, generate_series(1, ${count}::int) n where name = 'pattern'`);
  await fixture.db.delete(schedules).where(eq(schedules.name, 'pattern'));
}

test('a due schedule submits its job once, and gets its next run', async () => {
  const schedule = await put('due', { owner: 'alice' });
  expect(schedule.nextRunAt?.getTime()).toBeGreaterThan(Date.now() - 1_000);
  expect(await runAll()).toEqual([]);
  const time = await makeDue();
  expect(outcomes(await runAll())).toEqual(['due submitted']);
  expect(await runAll()).toEqual([]);
  const jobId = jobIdOf(schedule, time);
  expect(await jobIds()).toEqual([jobId]);
  expect(await fixture.job(jobId)).toMatchObject({ type: 'test', owner: 'alice', status: 'ready' });
  const after = await stored('due');
  expect(after).toMatchObject({ lastRunAt: time, lastJobId: jobId, lastError: null });
  expect(after.nextRunAt?.getTime()).toBeGreaterThan(time.getTime());
});

test('a thousand due schedules run in ten transactions of a hundred', async () => {
  await fill(1_000, { nextRunAt: sql`date_trunc('minute', now())` });
  for (let batch = 1; batch <= 10; batch++) {
    const runs = await runDueSchedules(fixture.db, fixture.queues);
    expect([batch, runs.length]).toEqual([batch, 100]);
  }
  expect(await fixture.db.$count(jobs, eq(jobs.status, 'ready'))).toBe(1_000);
});

test('processes that run schedules at the same time submit each run once', async () => {
  await fill(500, { nextRunAt: sql`date_trunc('minute', now())` });
  const other = await openDatabase(fixture.url, { name: 'test', log: fixture.log });
  const queues = await openQueues(other.db, { supervise: false, log: fixture.log });
  try {
    const all = await Promise.all([runAll(), runAll(other.db, queues), runAll(), runAll(other.db, queues)]);
    expect(all.flat()).toHaveLength(500);
    expect(new Set(all.flat().map(({ schedule }) => schedule.name)).size).toBe(500);
    expect(await jobIds()).toHaveLength(500);
  } finally {
    await queues.close();
    await other.close();
  }
});

test.each(['insert into "jobs"', 'update schedules', 'commit'])(
  'a process whose connection is cut at `%s` leaves its runs to others, which submit them once',
  async (statement) => {
    await put('cut');
    const way = await startWay(fixture.url);
    way.open();
    const cut = await openDatabase(way.url, { name: 'test', log: fixture.log });
    const queues = await openQueues(cut.db, { supervise: false, log: fixture.log });
    try {
      const time = await makeDue();
      way.closeAt(statement);
      await expect(runDueSchedules(cut.db, queues)).rejects.toThrow();
      // Postgres ends the transaction when it notices the lost connection.
      let runs: Run[] = [];
      while (runs.length === 0) runs = await runAll();
      expect(outcomes(runs)).toEqual(['cut submitted']);
      expect(await jobIds()).toEqual([jobIdOf(await stored('cut'), time)]);
    } finally {
      await queues.close();
      await cut.close();
      await way.stop();
    }
  },
);

describe('after an outage', () => {
  test('one missed run takes place, for its due time', async () => {
    const schedule = await put('once', { cron: EVERY_MINUTE, missed: 'once' });
    const time = await makeDue('once', 150);
    const before = Date.now();
    expect(outcomes(await runDueSchedules(fixture.db, fixture.queues))).toEqual(['once submitted']);
    expect(await jobIds()).toEqual([jobIdOf(schedule, time)]);
    const { lastRunAt, nextRunAt } = await stored('once');
    expect(lastRunAt).toEqual(time);
    expect(nextRunAt?.getTime()).toBeGreaterThan(before);
  });

  test('a schedule that skips missed runs continues with the next one', async () => {
    await put('skips', { missed: 'skip' });
    await makeDue('skips', 2);
    expect(outcomes(await runAll())).toEqual(['skips missed']);
    expect(await jobIds()).toEqual([]);
    expect(await stored('skips')).toMatchObject({ lastRunAt: null, lastError: null });
    await fixture.db.update(schedules).set({ nextRunAt: sql`now() - interval '30 seconds'` });
    expect(outcomes(await runAll())).toEqual(['skips submitted']);
  });
});

describe('no run is submitted', () => {
  test('for a time before the schedule was created', async () => {
    await put('young', { cron: ONCE_A_YEAR });
    await fixture.db.update(schedules).set({ nextRunAt: new Date(0) });
    expect(outcomes(await runAll())).toEqual(['young premature']);
    expect((await stored('young')).nextRunAt?.getTime()).toBeGreaterThan(Date.now());
    expect(await jobIds()).toEqual([]);
  });

  test('for a time before its expression or time zone was changed', async () => {
    for (const change of [{ cron: '30 3 1 1 *' }, { cron: '30 3 1 1 *', timezone: 'Europe/Berlin' }]) {
      await makeDueOrPut('changed');
      const { nextRunAt } = await put('changed', change);
      expect(nextRunAt?.getTime()).toBeGreaterThan(Date.now());
      expect(await runAll()).toEqual([]);
    }
  });

  test('for a time when it was paused', async () => {
    await put('paused');
    await makeDue();
    expect(await put('paused', { paused: true })).toMatchObject({ paused: true, nextRunAt: null });
    expect(await runAll()).toEqual([]);
    const before = Date.now();
    const resumed = await put('paused');
    expect(resumed.nextRunAt?.getTime()).toBeGreaterThan(before);
    expect(await runAll()).toEqual([]);
  });
});

async function makeDueOrPut(name: string): Promise<void> {
  await put(name, { cron: ONCE_A_YEAR });
  await makeDue(name);
}

test('a due run stays due when other fields of the schedule change', async () => {
  const { id } = await put('kept');
  const time = await makeDue();
  const changed = await put('kept', { overlap: 'skip', job: { request: {}, job: { ...job, priority: 'high' } } });
  expect(changed).toMatchObject({ id, nextRunAt: time, overlap: 'skip' });
  await runAll();
  expect(await fixture.job(jobIdOf(changed, time))).toMatchObject({ priority: 'high' });
});

test('runs may overlap, but not with overlap skip', async () => {
  await put('allows', { overlap: 'allow' });
  await put('skips', { overlap: 'skip' });
  const first = await makeDue('%', 3);
  expect(outcomes(await runAll())).toEqual(['allows submitted', 'skips submitted']);
  await makeDue('%', 2);
  expect(outcomes(await runAll())).toEqual(['allows submitted', 'skips overlapped']);
  expect((await stored('skips')).lastRunAt).toEqual(first);
  await expect(runScheduleNow(fixture.db, fixture.queues, (await stored('skips')).id)).rejects.toMatchObject({
    code: 'conflict',
    status: 409,
  });
  await fixture.finishAll();
  await makeDue('%', 1);
  expect(outcomes(await runAll())).toEqual(['allows submitted', 'skips submitted']);
});

test('a manual run has a separate job, counts as the previous run, and does not change the next run', async () => {
  const { id, nextRunAt } = await put('by-hand', { cron: ONCE_A_YEAR, overlap: 'skip', owner: 'alice' });
  const submitted = await runScheduleNow(fixture.db, fixture.queues, id);
  expect(submitted).toMatchObject({ type: 'test', status: 'ready', owner: 'alice' });
  const after = await stored('by-hand');
  expect(after).toMatchObject({ nextRunAt, lastJobId: submitted?.id, lastRunAt: expect.any(Date) });
  await makeDue();
  expect(outcomes(await runAll())).toEqual(['by-hand overlapped']);
  await fixture.db.delete(schedules);
  expect(await runScheduleNow(fixture.db, fixture.queues, id)).toBeUndefined();
});

test('a run that cannot be submitted becomes the last error, and stops no schedule', async () => {
  await fill(20, { nextRunAt: sql`date_trunc('minute', now())` });
  const time = await makeDue();
  const { id } = await stored('filled-7');
  const taken = jobIdOf(await stored('filled-7'), time);
  await fixture.submit({ id: taken, type: 'other' });
  const runs = await runAll();
  expect(outcomes(runs).filter((outcome) => !outcome.endsWith('submitted'))).toEqual(['filled-7 failed']);
  expect(await jobIds()).toHaveLength(20);
  const failed = await stored('filled-7');
  expect(failed).toMatchObject({
    lastError: { code: 'conflict', message: `there is another job ${taken} already` },
    lastRunAt: null,
    nextRunAt: expect.any(Date),
  });
  await makeDue('filled-7', 5);
  expect(outcomes(await runAll())).toEqual(['filled-7 submitted']);
  expect(await stored('filled-7')).toMatchObject({ id, lastError: null, lastRunAt: expect.any(Date) });
});

test('a stored expression that is invalid stops only its schedule, with an error', async () => {
  await put('sound');
  await put('unreadable');
  await fixture.db.update(schedules).set({ cron: '*/5 * * * * *' }).where(eq(schedules.name, 'unreadable'));
  await makeDue();
  expect(outcomes(await runAll())).toEqual(['sound submitted', 'unreadable failed']);
  const { nextRunAt, lastError } = await stored('unreadable');
  expect([nextRunAt, lastError]).toEqual([
    null,
    { code: 'invalid_request', message: expect.stringMatching(/^cron: /) },
  ]);
  expect((await put('unreadable')).nextRunAt).toEqual(expect.any(Date));
});

test('a job that no live converter can hold is refused in a new schedule, and waits in an existing one', async () => {
  const large = { cpuUnits: 2, memoryMb: 1024 };
  const { id } = await fixture.converter();
  await fixture.db.update(converters).set(large).where(eq(converters.id, id));
  await put('large', { job: { request: {}, job: { ...job, shape: large } } });
  await fixture.db.update(converters).set({ cpuUnits: 1, memoryMb: 512 }).where(eq(converters.id, id));
  await expect(put('other', { job: { request: {}, job: { ...job, shape: large } } })).rejects.toMatchObject({
    code: 'exceeds_capacity',
  });
  await makeDue();
  expect(outcomes(await runAll())).toEqual(['large submitted']);
});

test('an owner has a maximum of schedules, and may change existing ones', async () => {
  const ofOwner = (name: string, owner: string | null) =>
    putSchedule(
      fixture.db,
      {
        ...{ owner, name, cron: ONCE_A_YEAR, timezone: 'UTC', paused: false },
        ...{ overlap: 'allow', missed: 'once', job: { request: {}, job } },
      },
      2,
    );
  for (const owner of ['alice', null]) {
    const settled = await Promise.allSettled(['a', 'b', 'c', 'd'].map((name) => ofOwner(name, owner)));
    expect(settled.filter(({ status }) => status === 'fulfilled')).toHaveLength(2);
    const [refused] = settled.flatMap((one) => (one.status === 'rejected' ? [one.reason] : []));
    expect(refused).toMatchObject({ code: 'too_many_requests', status: 429, message: expect.stringContaining('2') });
  }
  const [{ name, owner } = { name: '', owner: null }] = await fixture.db.select().from(schedules);
  expect(await ofOwner(name, owner)).toMatchObject({ name, owner });
});

describe('with 10,000 schedules', () => {
  beforeEach(async () => {
    await fill(10_000, { nextRunAt: sql`now() + n * interval '1 minute'` });
    await fixture.db.execute(sql`analyze schedules`);
  });

  test('the query for due schedules reads only these and the next one', async () => {
    const rowsRead = () =>
      rowsReadBy(fixture.db, 'schedules', async (tx) => {
        await millisecondsToNextRun(tx);
        return (await lockDueSchedules(tx, 100)).length;
      });
    // Otherwise Postgres reads dead rows of earlier tests.
    await fixture.db.execute(sql`vacuum schedules`);
    // The planner reads both ends of the index.
    const few = 1_000;
    const idle = await rowsRead();
    expect(idle.found).toBe(0);
    expect(idle.read).toBeLessThan(few);
    await makeDue('filled-999_');
    const { found, read } = await rowsRead();
    expect(found).toBe(10);
    expect(read).toBeGreaterThanOrEqual(found);
    expect(read).toBeLessThan(few);
  });

  test('other work takes place between any two expressions', async () => {
    await makeDue('filled-5003');
    await makeDue('filled-600_');
    let turns = 0;
    const turn = () => {
      turns++;
      timer = setImmediate(turn);
    };
    let timer = setImmediate(turn);
    const runs = await runDueSchedules(fixture.db, fixture.queues);
    clearImmediate(timer);
    expect(runs).toHaveLength(11);
    expect(turns).toBeGreaterThanOrEqual(runs.length);
  });
});
