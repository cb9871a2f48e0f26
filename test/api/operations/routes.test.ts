import { createHash } from 'node:crypto';
import type { Transaction } from '../../../db/client.ts';
import { listRelatives } from '../../../db/jobs.ts';
import { recentAbnormalEnds } from '../../../db/system.ts';
import type { PublicError } from '../../../runtime/errors.ts';
import { COMPLETED, type JobsFixture, openJobsFixture, range } from '../../jobs/fixture.ts';
import { rowsReadBy } from '../../support/rows-read.ts';
import { type Json, type Service, startService } from '../../support/service.ts';
import { expectProblem } from '../http/problems.ts';

/** The fixture runs jobs as a converter does. */
let fixture: JobsFixture;
let service: Service;
beforeAll(async () => {
  fixture = await openJobsFixture();
  const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');
  const keyOf = (name: string, ...scopes: string[]) => ({ name, sha256: sha256(name), scopes });
  const keys = [keyOf('alice', 'jobs:read'), keyOf('bob', 'jobs:read'), keyOf('root', 'admin')];
  service = await startService({
    converters: 0,
    databaseUrl: fixture.url,
    env: { API_KEYS: JSON.stringify(keys) },
  });
});
afterEach(async () => {
  expect(await fixture.findings()).toEqual([]);
  await fixture.empty();
});
afterAll(async () => {
  await service.stop();
  await fixture.close();
});

const get = (name: string, route: string) => service.send('GET', route, undefined, { Authorization: `Bearer ${name}` });

describe('GET /jobs/{id}/graph', () => {
  const one = (id: string, dependsOn: string[] = [], owner = 'alice') => ({ id, dependsOn, owner });
  const expected = (job_id: string, status: string, depends_on: string[] = [], parent_id: string | null = null) => ({
    job_id,
    type: expect.any(String),
    status,
    parent_id,
    depends_on,
  });

  /** Submits two paths from `first` to `last`, one through a job with two children. Gives the ids of the children. */
  async function makeDiamond(): Promise<[string, string]> {
    await fixture.submit(
      one('first'),
      one('whole', ['first']),
      one('aside', ['first']),
      one('last', ['aside', 'whole']),
    );
    await fixture.settle(await fixture.claimOne(), COMPLETED);
    const ready = await fixture.claim();
    const whole = ready.find(({ id }) => id === 'whole');
    if (whole === undefined) throw new Error('whole is not ready');
    await fixture.settle(whole, { kind: 'split', children: [range([1, 2]), range([3, 4])] });
    const { rows } = await service.pool.query(`select id from jobs where parent_id = 'whole' order by id`);
    return [rows[0].id, rows[1].id];
  }

  test('shows a diamond with a split job, the job itself first and the nearest next', async () => {
    const [left, right] = await makeDiamond();
    await fixture.submit(one('stranger'));
    const jobs = {
      first: expected('first', 'completed'),
      whole: expected('whole', 'running', ['first']),
      aside: expected('aside', 'running', ['first']),
      last: expected('last', 'blocked', ['aside', 'whole']),
      left: expected(left, 'ready', [], 'whole'),
      right: expected(right, 'ready', [], 'whole'),
    };
    const nearestOf = {
      first: [
        [jobs.whole, jobs.aside],
        [jobs.last, jobs.left, jobs.right],
      ],
      last: [
        [jobs.whole, jobs.aside],
        [jobs.first, jobs.left, jobs.right],
      ],
      [left]: [[jobs.whole], [jobs.first, jobs.last, jobs.right], [jobs.aside]],
    };
    for (const [id, steps] of Object.entries(nearestOf)) {
      const { status, body } = await get('alice', `/jobs/${id}/graph`);
      expect([status, body.complete, body.items.length]).toEqual([200, true, 6]);
      expect(body.items[0].job_id).toBe(id);
      let from = 1;
      for (const step of steps) {
        const found = body.items.slice(from, from + step.length);
        expect(found).toEqual(expect.arrayContaining(step));
        from += step.length;
      }
    }
    expect((await get('alice', '/jobs/stranger/graph')).body).toEqual({
      items: [expected('stranger', 'ready')],
      complete: true,
    });
  });

  test('hides the jobs of other owners', async () => {
    await fixture.submit(one('mine'), one('theirs', ['mine'], 'root'), one('mine-too', ['mine', 'theirs']));
    const idsFor = async (name: string) =>
      (await get(name, '/jobs/mine/graph')).body.items.map(({ job_id }: Json) => job_id).sort();
    expect(await idsFor('root')).toEqual(['mine', 'mine-too', 'theirs']);
    expect(await idsFor('alice')).toEqual(['mine', 'mine-too']);
    const { body } = await get('alice', '/jobs/mine/graph');
    expect(body.items[1]).toEqual(expected('mine-too', 'blocked', ['mine']));
    expectProblem(await get('bob', '/jobs/mine/graph'), 404, 'not_found');
    expectProblem(await get('alice', '/jobs/theirs/graph'), 404, 'not_found');
    expectProblem(await get('alice', '/jobs/unknown/graph'), 404, 'not_found');
  });

  test('shows the nearest 200 of many jobs as incomplete, without reading the rest', async () => {
    await fixture.submit(one('hub'), one('spoke', ['hub']));
    await fixture.finishAll();
    await service.pool.query(`
      insert into jobs (id, type, priority, arrived_at, payload, cpu_units, memory_mb, status, max_attempts,
        initial_delay_seconds, backoff_multiplier, timeout_seconds, owner, finished_at)
      select 'many-' || n, 'test', 'normal', now(), '{}', 1, 256, 'completed', 3, 1, 2, 300, 'alice', now()
      from generate_series(1, 5000) n`);
    await service.pool.query(`insert into job_dependencies select 'many-' || n, 'hub' from generate_series(1, 5000) n`);
    const { body } = await get('alice', '/jobs/spoke/graph');
    expect([body.complete, body.items.length]).toEqual([false, 200]);
    expect(body.items.slice(0, 2)).toEqual([expected('spoke', 'completed', ['hub']), expected('hub', 'completed')]);
    const { read } = await rowsReadBy(fixture.db, 'job_dependencies', (tx) => listRelatives(tx, 'spoke', 201));
    // Reads the dependants of the hub once, and none of theirs.
    expect(read).toBeLessThan(7_500);
  });
});

describe('deaths in GET /system', () => {
  const failed = (code: PublicError['code'], message: string) =>
    ({ kind: 'failed', error: { code, message }, retryable: false }) as const;
  const deathsFor = async (name: string) => (await get(name, '/system')).body.deaths;

  /** Runs one attempt of a job of this owner. */
  async function end(id: string, owner: string, outcome: Parameters<JobsFixture['settle']>[1], peakMb?: number) {
    await fixture.submit({ id, owner });
    expect(await fixture.settle(await fixture.claimOne(), outcome, peakMb)).toBe(true);
  }

  test('are attempts that ended by memory, timeout or crash, latest first', async () => {
    const outgrown = { code: 'out_of_memory', message: 'page 3 needs more than the 256 MB reserved' } as const;
    await end('grows', 'alice', { kind: 'outgrown', error: outgrown, spent: true }, 251);
    await end('hangs', 'alice', failed('timeout', 'took longer than 60 s'), 90);
    await end('crashes', 'alice', failed('internal', 'the task brought its sandbox down (SIGSEGV)'));
    await end('lost', 'bob', failed('converter_lost', 'the converter that ran it went away'));
    const death = (job_id: string, peak_memory_mb: number | null, error: object) => ({
      job_id,
      type: 'test',
      upload_id: null,
      attempt: 1,
      converter: 'host-1',
      memory_mb: 256,
      peak_memory_mb,
      at: expect.any(String),
      error,
    });
    const ofAlice = [
      death('crashes', null, { code: 'internal', message: 'the task brought its sandbox down (SIGSEGV)' }),
      death('hangs', 90, { code: 'timeout', message: 'took longer than 60 s' }),
      death('grows', 251, outgrown),
    ];
    expect(await deathsFor('alice')).toEqual(ofAlice);
    const ofBob = death('lost', null, { code: 'converter_lost', message: 'the converter that ran it went away' });
    expect(await deathsFor('bob')).toEqual([ofBob]);
    expect(await deathsFor('root')).toEqual([ofBob, ...ofAlice]);
    await fixture.cancel('grows');
  });

  test('exclude errors of tasks, returned attempts and attempts older than a day', async () => {
    await end('reports', 'alice', failed('task_failed', 'says so itself'));
    await end('is corrupt', 'alice', failed('corrupt_file', 'the PDF cannot be read'));
    await end('is old', 'alice', failed('timeout', 'took longer than 60 s'));
    await service.pool.query(
      `update job_attempts set finished_at = now() - interval '25 hours' where job_id = 'is old'`,
    );
    await end('comes back', 'alice', { kind: 'returned' });
    expect(await deathsFor('alice')).toEqual([]);
    await fixture.cancel('comes back');
  });

  test('are found by an index among many failed attempts', async () => {
    await end('fails', 'alice', failed('task_failed', 'says so itself'));
    await service.pool.query(`
      insert into job_attempts (job_id, attempt, status, converter_id, converter, cpu_units, memory_mb, error, finished_at)
      select 'fails', n, 'failed', gen_random_uuid(), 'host-1', 1, 256, '{"code": "task_failed", "message": ""}', now()
      from generate_series(2, 10000) n`);
    await end('hangs', 'alice', failed('timeout', 'took longer than 60 s'));
    await service.pool.query('analyze job_attempts');
    expect(await deathsFor('alice')).toMatchObject([{ job_id: 'hangs' }]);
    const look = (tx: Transaction) => recentAbnormalEnds(tx, { owner: 'alice', limit: 20 });
    expect((await rowsReadBy(fixture.db, 'job_attempts', look)).read).toBeLessThan(1_000);
  });
});
