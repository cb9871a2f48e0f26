import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { eq, sql } from 'drizzle-orm';
import { postgresCode } from '../../db/postgres-errors.ts';
import { jobs } from '../../db/schema.ts';
import type { Shape } from '../../jobs/shape.ts';
import { type JobsFixture, openJobsFixture } from './fixture.ts';

const MIGRATIONS = path.resolve(import.meta.dirname, '../../migrations');
const CHECK_VIOLATION = '23514';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterAll(() => fixture.close());

test.each<Shape>([
  { cpuUnits: -5, memoryMb: 256 },
  { cpuUnits: 0.5, memoryMb: 256 },
  { cpuUnits: Number.NaN, memoryMb: 256 },
  { cpuUnits: 100_000, memoryMb: 256 },
  { cpuUnits: 1, memoryMb: -100_000 },
  { cpuUnits: 1, memoryMb: 0 },
  { cpuUnits: 1, memoryMb: 300 },
  { cpuUnits: 1, memoryMb: 32_768 },
])('a job that reserves %j is refused', async (shape) => {
  await expect(fixture.submit({ shape })).rejects.toThrow(/^(cpu_units|memory_mb): must be .* \(got /);
  expect(await fixture.db.$count(jobs)).toBe(0);
});

test.each([
  sql`cpu_units = -5`,
  sql`memory_mb = -100000`,
  sql`memory_mb = 100000000`,
  sql`timeout_seconds = 0`,
  sql`max_attempts = 0`,
  sql`backoff_multiplier = 'NaN'`,
  sql`initial_delay_seconds = -1`,
])('the table refuses a job outside the bounds (%#)', async (change) => {
  await fixture.submit({ id: 'a' });
  const refusal = await fixture.db.execute(sql`update jobs set ${change} where id = 'a'`).catch(postgresCode);
  await fixture.db.delete(jobs).where(eq(jobs.id, 'a'));
  expect(refusal).toBe(CHECK_VIOLATION);
});

test('the migration repairs jobs outside the bounds', async () => {
  await fixture.db.execute(sql`alter table jobs drop constraint jobs_shape, drop constraint jobs_retry_policy`);
  await fixture.submit({ id: 'bad' }, { id: 'good' });
  await fixture.db.execute(
    sql`update jobs set cpu_units = -5, memory_mb = -100000, timeout_seconds = -1 where id = 'bad'`,
  );
  for (const statement of await boundsOfJobs()) await fixture.db.execute(sql.raw(statement));
  const { rows } = await fixture.db.execute(
    sql`select id, cpu_units, memory_mb, timeout_seconds from jobs order by id`,
  );
  expect(rows).toEqual([
    { id: 'bad', cpu_units: 0, memory_mb: 256, timeout_seconds: 1 },
    { id: 'good', cpu_units: 1, memory_mb: 256, timeout_seconds: 300 },
  ]);
});

/** The statements of the migration that limits the shapes of jobs. */
async function boundsOfJobs(): Promise<string[]> {
  for (const name of await readdir(MIGRATIONS)) {
    const text = name.endsWith('.sql') ? await readFile(path.join(MIGRATIONS, name), 'utf8') : '';
    if (!text.includes('ADD CONSTRAINT "jobs_shape"')) continue;
    return text
      .split('--> statement-breakpoint')
      .filter((part) => /"jobs_shape"|"jobs_retry_policy"|UPDATE "jobs"/.test(part));
  }
  throw new Error('no migration bounds the shapes of jobs');
}
