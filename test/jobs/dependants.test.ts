import { sql } from 'drizzle-orm';
import { recordInspection, recordPages } from '../../conversion/record-pages.ts';
import { listPrerequisites } from '../../db/jobs.ts';
import type { RunOn } from '../../db/schema.ts';
import type { ClaimedJob } from '../../jobs/claim.ts';
import { advanceDependants } from '../../jobs/dependants.ts';
import { COMPLETED, completedPage, FAILED_PERMANENTLY, type JobsFixture, openJobsFixture } from './fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const MANY = 5_000;
/** The maximum number of dependants that one transaction changes. */
const MAX_CHANGED = 1_000;
const job = (id: string, ...dependsOn: string[]) => ({ id, dependsOn });
const numbered = (count: number, name: string) => Array.from({ length: count }, (_, index) => `${name}${index}`);
const count = async (status: string) =>
  Number((await fixture.db.execute(sql`select count(*) from jobs where status = ${status}`)).rows[0]?.count);
const remove = (id: string) => fixture.db.execute(sql`delete from jobs where id = ${id}`);

/** Does `work` and its remaining steps, and checks that no transaction changes too many rows. */
async function inSteps(work: () => Promise<unknown>): Promise<void> {
  await work();
  while (await advanceDependants(fixture.db, fixture.queues, fixture.log));
  const { rows } = await fixture.db.execute<{ changed: number }>(
    sql`select count(*)::int as changed from jobs group by xmin::text order by changed desc limit 1`,
  );
  expect(rows[0]?.changed).toBeLessThanOrEqual(MAX_CHANGED);
}

describe('many dependants of one job', () => {
  beforeEach(async () => {
    await fixture.submit({ id: 'root' });
    for (const batch of numbered(MANY / 1_000, 'batch')) {
      await fixture.submit(...numbered(1_000, `${batch}-`).map((id) => job(id, 'root')));
    }
  });

  test('are released in bounded steps', async () => {
    const root = await fixture.claimOne();
    await inSteps(() => fixture.settle(root, COMPLETED));
    expect(await count('ready')).toBe(MANY);
  });

  test('fail, wait again and fail again in bounded steps', async () => {
    const root = await fixture.claimOne();
    await inSteps(() => fixture.settle(root, FAILED_PERMANENTLY));
    expect(await count('failed')).toBe(MANY + 1);
    await inSteps(() => fixture.retry('root'));
    expect(await count('blocked')).toBe(MANY);
    await inSteps(() => fixture.cancel('root'));
    expect(await count('failed')).toBe(MANY);
  });
});

test('a long chain fails, is retried and is cancelled in bounded steps, whichever change comes first', async () => {
  const ids = numbered(300, 'j');
  await fixture.submit(...ids.map((id, index) => job(id, ...ids.slice(Math.max(0, index - 1), index))));
  const head = await fixture.claimOne();
  await inSteps(() => fixture.settle(head, FAILED_PERMANENTLY));
  expect(await count('failed')).toBe(300);
  // The cancel precedes the end of the retry.
  await fixture.retry('j0');
  expect(await count('failed')).toBeGreaterThan(0);
  await inSteps(() => fixture.cancel('j0'));
  expect(await count('failed')).toBe(299);
  await inSteps(() => fixture.retry('j0'));
  expect(await count('blocked')).toBe(299);
});

test('remaining steps survive a lost process, and several processes share them', async () => {
  await fixture.submit({ id: 'root' }, ...numbered(2_500, 'j').map((id) => job(id, 'root')));
  await fixture.settle(await fixture.claimOne(), COMPLETED);
  expect(await count('blocked')).toBe(1_500);
  expect(await fixture.findings()).toEqual([]);
  await Promise.all([fixture.continueChanges(), fixture.continueChanges(), fixture.continueChanges()]);
  expect(await count('ready')).toBe(2_500);
});

describe('a prerequisite that completes twice', () => {
  /** A completed conversion with one failed page. */
  async function conversion(): Promise<{ upload: string; attempt: ClaimedJob }> {
    const upload = await fixture.upload();
    const attempt = await fixture.claimOne();
    await recordInspection(fixture.db, attempt, { pageCount: 2, selected: [[1, 2]] });
    const error = { code: 'timeout' as const, message: 'took too long' };
    await recordPages(fixture.db, attempt, [{ page: 1, status: 'failed', error }, completedPage(2)]);
    return { upload, attempt };
  }

  test('does not release a dependant that waits for another job', async () => {
    const { upload, attempt } = await conversion();
    await fixture.submit({ id: 'other', runAt: new Date(Date.now() + 3_600_000) }, job('both', attempt.id, 'other'));
    await fixture.settle(attempt, COMPLETED);
    expect(await fixture.job('both')).toMatchObject({ status: 'blocked', pendingDependencies: 1 });
    await fixture.retryUpload(upload);
    expect(await fixture.job('both')).toMatchObject({ status: 'blocked', pendingDependencies: 2 });
    expect(await fixture.finishAll()).toHaveLength(1);
    expect(await fixture.job('both')).toMatchObject({ status: 'blocked', pendingDependencies: 1 });
  });

  test('does not change a dependant that has started', async () => {
    const { upload, attempt } = await conversion();
    await fixture.submit(job('after', attempt.id));
    await fixture.settle(attempt, COMPLETED);
    const after = await fixture.claimOne();
    await fixture.retryUpload(upload);
    expect(await fixture.job('after')).toMatchObject({ status: 'running', attempt: 1 });
    expect(await fixture.findings()).toEqual([]);
    expect(await fixture.settle(after, COMPLETED)).toBe(true);
    await fixture.finishAll();
    expect(await fixture.attempts('after')).toHaveLength(1);
  });
});

describe('a prerequisite that is deleted', () => {
  test('before it completed fails its dependants, and no retry runs them', async () => {
    const upload = await fixture.upload();
    const conversion = await fixture.claimOne();
    await fixture.submit(job('after', conversion.id), job('behind', 'after'));
    await fixture.deleteUpload(upload);
    expect(await fixture.statuses('after', 'behind')).toEqual(['failed', 'failed']);
    expect((await fixture.job('after')).error?.code).toBe('dependency_failed');
    await expect(fixture.retry('after')).rejects.toMatchObject({
      status: 409,
      message: `its prerequisite ${conversion.id} was deleted before it completed: submit the job without it`,
    });
    expect(await fixture.statuses('after')).toEqual(['failed']);
  });

  test('by any statement fails its dependants', async () => {
    await fixture.submit({ id: 'gone' }, job('after', 'gone'));
    await fixture.settle(await fixture.claimOne(), { kind: 'returned' });
    await fixture.db.execute(sql`delete from pgboss.job where id = (select queue_id from jobs where id = 'gone')`);
    await remove('gone');
    await fixture.continueChanges();
    expect(await fixture.job('after')).toMatchObject({
      status: 'failed',
      error: { code: 'dependency_failed', message: 'its prerequisite gone was deleted' },
    });
  });

  test('after it completed counts as completed', async () => {
    await fixture.submit({ id: 'done' }, { id: 'other' }, job('both', 'done', 'other'));
    const attempts = await fixture.claim();
    const of = (id: string) => attempts.find((attempt) => attempt.id === id) as ClaimedJob;
    await fixture.settle(of('done'), COMPLETED);
    await remove('done');
    await fixture.continueChanges();
    expect(await fixture.job('both')).toMatchObject({ status: 'blocked', pendingDependencies: 1 });
    await fixture.settle(of('other'), FAILED_PERMANENTLY);
    await fixture.retry('other');
    await fixture.finishAll();
    expect(await fixture.statuses('both')).toEqual(['completed']);
  });

  test('after it completed counts as completed for dependants that were not updated yet', async () => {
    await fixture.submit({ id: 'root' }, ...numbered(1_500, 'j').map((id) => job(id, 'root')));
    await fixture.settle(await fixture.claimOne(), COMPLETED);
    await remove('root');
    await fixture.continueChanges();
    expect(await count('ready')).toBe(1_500);
  });
});

describe('a dependant', () => {
  /** Ends `a` and then `b`. */
  const cases: [RunOn, string[], string][] = [
    ['success', ['completed', 'completed'], 'ready'],
    ['success', ['completed', 'failed'], 'failed'],
    ['success', ['cancelled'], 'failed'],
    ['failure', ['completed', 'completed'], 'cancelled'],
    ['failure', ['failed'], 'blocked'],
    ['failure', ['failed', 'completed'], 'ready'],
    ['failure', ['completed', 'cancelled'], 'ready'],
    ['always', ['completed'], 'blocked'],
    ['always', ['completed', 'completed'], 'ready'],
    ['always', ['failed', 'cancelled'], 'ready'],
  ];
  test.each(cases)('with run_on %s, after prerequisites that ended as %j, is %s', async (runOn, ends, status) => {
    await fixture.submit({ id: 'p0' }, { id: 'p1' }, { ...job('after', 'p0', 'p1'), runOn });
    const attempts = await fixture.claim();
    for (const [index, end] of ends.entries()) {
      const attempt = attempts.find(({ id }) => id === `p${index}`) as ClaimedJob;
      if (end === 'cancelled') await fixture.cancel(attempt.id);
      else await fixture.settle(attempt, end === 'completed' ? COMPLETED : FAILED_PERMANENTLY);
    }
    expect(await fixture.statuses('after')).toEqual([status]);
    // A job that is submitted later gets the same status.
    await fixture.submit({ ...job('late', 'p0', 'p1'), runOn });
    expect(await fixture.statuses('late')).toEqual([status]);
  });

  test('with run_on failure is cancelled when all prerequisites have completed', async () => {
    await fixture.submit({ id: 'a' }, { ...job('cleanup', 'a'), runOn: 'failure' }, job('behind', 'cleanup'));
    await fixture.settle(await fixture.claimOne(), COMPLETED);
    const message = 'all its prerequisites completed, and it runs on failure';
    expect(await fixture.job('cleanup')).toMatchObject({ status: 'cancelled', error: { message } });
    expect(await fixture.statuses('behind')).toEqual(['failed']);
    await expect(fixture.retry('cleanup')).rejects.toMatchObject({ status: 409 });
  });

  test('with run_on failure is ready again when its prerequisite is retried and fails again', async () => {
    await fixture.submit({ id: 'a' }, { ...job('cleanup', 'a'), runOn: 'failure' });
    await fixture.settle(await fixture.claimOne(), FAILED_PERMANENTLY);
    expect(await fixture.statuses('cleanup')).toEqual(['ready']);
    await fixture.cancel('cleanup');
    await fixture.retry('a');
    await fixture.retry('cleanup');
    expect(await fixture.statuses('cleanup')).toEqual(['blocked']);
    await fixture.settle(await fixture.claimOne(), FAILED_PERMANENTLY);
    expect(await fixture.statuses('cleanup')).toEqual(['ready']);
  });
});

test('the results of prerequisites are limited in size, and include deleted ones', async () => {
  const ids = ['a', 'b', 'c', 'd'];
  await fixture.submit(...ids.map((id) => ({ id })), { ...job('after', ...ids), runOn: 'always' });
  const attempts = await fixture.claim();
  for (const attempt of attempts) {
    const result = { text: 'x'.repeat(attempt.id === 'b' ? 900 : 100) };
    await fixture.settle(attempt, attempt.id === 'c' ? FAILED_PERMANENTLY : { kind: 'completed', result });
  }
  await remove('d');
  expect(await listPrerequisites(fixture.db, 'after', 1_000)).toMatchObject([
    { id: 'a', type: 'test', status: 'completed', result: { text: 'x'.repeat(100) }, error: null, truncated: false },
    { id: 'b', status: 'completed', result: null, truncated: true },
    { id: 'c', status: 'failed', result: null, error: { code: 'corrupt_file' }, truncated: false },
    { id: 'd', type: null, status: 'completed', result: null, error: null, truncated: false },
  ]);
  await fixture.continueChanges();
});

test('a dependant that cannot be placed blocks neither its prerequisite nor other dependants', async () => {
  await fixture.submit({ id: 'a' }, job('poison', 'a'), { id: 'b' }, job('fine', 'b'));
  await fixture.db.execute(sql`create function refuse() returns trigger language plpgsql as $$ begin
    if new.id = 'poison' and new.status = 'ready' then raise exception 'refused'; end if; return new; end $$`);
  await fixture.db.execute(sql`create trigger refuse before update on jobs for each row execute function refuse()`);
  try {
    const attempts = await fixture.claim();
    for (const attempt of attempts) expect(await fixture.settle(attempt, COMPLETED)).toBe(true);
    expect(await fixture.statuses('a', 'poison', 'b', 'fine')).toEqual(['completed', 'blocked', 'completed', 'ready']);
    await fixture.continueChanges();
    expect(await fixture.statuses('poison')).toEqual(['blocked']);
  } finally {
    await fixture.db.execute(sql`drop trigger refuse on jobs; drop function refuse`);
  }
  await fixture.db.execute(sql`update pending_outcomes set due_at = now()`);
  await fixture.continueChanges();
  expect(await fixture.statuses('poison')).toEqual(['ready']);
});
