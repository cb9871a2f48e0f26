import { type SQL, sql } from 'drizzle-orm';
import { recordInspection, recordPages } from '../../conversion/record-pages.ts';
import type { ClaimedJob } from '../../jobs/claim.ts';
import { COMPLETED, completedPage, FAILED, type JobsFixture, openJobsFixture, range } from './fixture.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.empty());
afterAll(() => fixture.close());

/** Creates jobs whose ids are their statuses, a `parent` of two children, a running upload, and one that has ended. */
async function busy(): Promise<void> {
  await fixture.submit({ id: 'failed', notifyUrl: 'http://receiver.example' });
  await fixture.finishAll({ kind: 'failed', error: { code: 'task_failed', message: 'broken' }, retryable: false });
  await fixture.submit({ id: 'completed' });
  const over = await fixture.upload();
  await fixture.finishAll();
  expect((await fixture.findUpload(over)).status).toBe('completed');
  await fixture.submit({ id: 'retrying' });
  await fixture.settle(await fixture.claimOne(), FAILED);
  await fixture.submit({ id: 'parent' });
  await fixture.settle(await fixture.claimOne(), { kind: 'split', children: [range([1, 1]), range([2, 2])] });
  const [child] = (await fixture.claim()) as [ClaimedJob, ClaimedJob];
  await fixture.settle(child, { kind: 'returned' });
  await fixture.submit({ id: 'running', shape: { cpuUnits: 3, memoryMb: 512 } });
  await fixture.upload();
  const convert = (await fixture.claim()).find(({ type }) => type === 'convert') as ClaimedJob;
  await recordInspection(fixture.db, convert, { pageCount: 2, selected: [[1, 2]] });
  await recordPages(fixture.db, convert, [completedPage(1)]);
  await fixture.submit({ id: 'cancelled' });
  await fixture.cancel('cancelled');
  await fixture.submit(
    { id: 'ready', dependsOn: ['completed'] },
    { id: 'blocked', dependsOn: ['completed', 'ready', 'running'] },
    { id: 'scheduled', runAt: new Date(Date.now() + 3_600_000) },
  );
}

const queued = (id: string) => sql`(select queue_id from jobs where id = ${id})`;
const endOf = (id: string) =>
  sql`update jobs set status = 'failed', queue_id = null, converter_id = null, pending_children = 0, finished_at = now() where id = ${id}`;

const BREAKS: [invariant: string, how: string, statements: SQL[]][] = [
  [
    'a ready job has its pg-boss job',
    'the pg-boss job of a ready job was deleted',
    [sql`delete from pgboss.job where id = ${queued('ready')}`],
  ],
  [
    'a pg-boss job stands for one ready job',
    'a pg-boss job has no job',
    [sql`insert into pgboss.job (name) values ('jobs')`],
  ],
  [
    'a pg-boss job stands for one ready job',
    'the job has ended',
    [
      endOf('ready'),
      sql`update jobs set pending_dependencies = 1 where id = 'blocked'`,
      sql`delete from job_dependencies where depends_on = 'ready'`,
    ],
  ],
  [
    'a pending webhook is due within 11 hours',
    'the webhook is due never',
    [sql`update webhooks set due_at = 'infinity'`],
  ],
  [
    'a blocked job counts its dependencies without an outcome',
    'the count is too high',
    [sql`update jobs set pending_dependencies = 3 where id = 'blocked'`],
  ],
  [
    'no blocked job waits for a dependency that has failed',
    'the edge has a failed outcome',
    [sql`insert into job_dependencies values ('blocked', 'failed')`],
  ],
  [
    'a job that waits knows the outcomes of its prerequisites, or will be placed again',
    'a prerequisite ended without an outcome',
    [
      sql`update job_dependencies set outcome = 'completed' where job_id = 'blocked' and depends_on = 'running'`,
      sql`update jobs set pending_dependencies = 1 where id = 'blocked'`,
    ],
  ],
  [
    'no job runs before its dependencies let it',
    'a ready job has an open prerequisite',
    [sql`insert into job_dependencies values ('ready', 'running')`],
  ],
  [
    'no job runs before its dependencies let it',
    'a scheduled job has a cancelled prerequisite',
    [sql`insert into job_dependencies values ('scheduled', 'cancelled')`],
  ],
  [
    'a parent counts the children that have not ended',
    'the count is too low',
    [sql`update jobs set pending_children = 1 where id = 'parent'`],
  ],
  [
    'no child outlives its parent',
    'the parent has ended',
    [
      endOf('parent'),
      sql`update jobs set parent_id = null where id = (select min(id) from jobs where parent_id = 'parent')`,
    ],
  ],
  [
    'a running job has one running attempt, its last',
    'the attempt was deleted',
    [sql`delete from job_attempts where job_id = 'running'`],
  ],
  [
    'a running attempt belongs to a running job',
    'the job has ended',
    [sql`update job_attempts set status = 'running' where job_id = 'completed'`],
  ],
  [
    'no job completes twice',
    'two attempts have completed',
    [
      sql`insert into job_attempts (job_id, attempt, status, converter_id, converter, cpu_units, memory_mb)
        select job_id, 2, status, converter_id, converter, cpu_units, memory_mb from job_attempts where job_id = 'completed'`,
    ],
  ],
  [
    'no converter runs more than its capacity',
    'the converter has too few CPU units',
    [sql`update converters set cpu_units = 2 where id = (select converter_id from jobs where id = 'running')`],
  ],
  [
    'no converter runs more than its capacity',
    'the converter has too little memory',
    [sql`update converters set memory_mb = 511 where id = (select converter_id from jobs where id = 'running')`],
  ],
  [
    'no key runs more jobs than its type allows',
    'two jobs run',
    [
      sql`insert into job_types (type, per_key, limited_at) values ('test', 1, '-infinity')`,
      sql`update jobs set type = 'test', concurrency_key = 'key' where status = 'running'`,
    ],
  ],
  [
    'no type runs more jobs than it allows',
    'two jobs run',
    [
      sql`insert into job_types (type, per_type, limited_at) values ('test', 1, '-infinity')`,
      sql`update jobs set type = 'test' where status = 'running'`,
    ],
  ],
  [
    'a throttled job waits for a key that has no room',
    'the type has no limit',
    [sql`update jobs set concurrency_key = 'key', throttled = true where id = 'ready'`],
  ],
  [
    'an upload counts its completed pages',
    'the count is too high',
    [sql`update uploads set pages_done = 2 where finished_at is null`],
  ],
  ['an upload counts its completed pages', 'a page was deleted', [sql`delete from pages`]],
  [
    'an upload ends with its jobs',
    'the upload has ended first',
    [sql`update uploads set status = 'failed', finished_at = now(), password = null where finished_at is null`],
  ],
  [
    'an upload ends with its jobs',
    'the upload has not ended',
    [sql`update uploads set status = 'processing', finished_at = null where finished_at is not null`],
  ],
];

test.each(BREAKS)('the audit finds a broken invariant: %s: %s', async (invariant, _how, statements) => {
  await busy();
  expect(await fixture.findings()).toEqual([]);
  for (const statement of statements) await fixture.db.execute(statement);
  const findings = await fixture.findings();
  expect(findings.map((finding) => finding.invariant)).toEqual([invariant]);
  expect(findings[0]).toMatchObject({ count: 1, examples: [expect.any(String)] });
});

test('a finding counts all broken rows, and names five', async () => {
  await fixture.submit(...Array(20).fill({}));
  await fixture.db.execute(sql`delete from pgboss.job`);
  const [finding, ...others] = await fixture.findings();
  expect([finding?.count, finding?.examples.length, others]).toEqual([20, 5, []]);
});

test('the audit finds nothing while jobs are submitted, claimed, settled, cancelled and retried', async () => {
  await busy();
  let working = true;
  const work = async (lane: number) => {
    for (let round = 0; round < 15; round++) {
      const [a, b, c] = [`a${lane}-${round}`, `b${lane}-${round}`, `c${lane}-${round}`];
      await fixture.submit({ id: a }, { id: b, dependsOn: [a] }, { id: c, dependsOn: [b] });
      for (const job of await fixture.claim()) {
        await fixture.settle(job, (round + job.id.length) % 3 ? COMPLETED : { kind: 'returned' });
      }
      await fixture.cancel(c).catch(() => undefined);
      await fixture.retry(c).catch(() => undefined);
    }
  };
  const all = Promise.all([1, 2, 3].map(work)).finally(() => {
    working = false;
  });
  while (working) expect(await fixture.findings()).toEqual([]);
  await all;
  expect(await fixture.findings()).toEqual([]);
});
