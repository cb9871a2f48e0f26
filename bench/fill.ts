import type { Pool } from 'pg';

/** The waiting jobs reserve more than the converter of the bench has, so they stay, and every claim and list meets them. */
const HUGE_CPU_UNITS = 1_000;
const SHAPES = 10;

/**
 * Fills the tables as months of use would: finished jobs with an attempt and three events each, one in ten failed, and ready
 * jobs with their pg-boss jobs in ten queues. Made by SQL with the triggers off; analysed, as autovacuum would.
 */
export async function fillTables(
  pool: Pool,
  { finished, waiting }: { finished: number; waiting: number },
): Promise<void> {
  const client = await pool.connect();
  try {
    await client.query(`set session_replication_role = replica`);
    await client.query(`set statement_timeout = 0`);
    await client.query(
      `insert into jobs (id, type, priority, arrived_at, payload, cpu_units, memory_mb, status, attempt, max_attempts, initial_delay_seconds,
         backoff_multiplier, timeout_seconds, result, error, created_at, started_at, finished_at)
       select 'past_' || n, (array['noop', 'data_fetch', 'report_generation', 'email'])[1 + n % 4],
         (array['normal', 'normal', 'high', 'low'])[1 + n % 4], at, '{}', 1, 256, case when n % 10 = 0 then 'failed' else 'completed' end,
         1, 3, 1, 2, 300, '{"output": 1}', case when n % 10 = 0 then '{"code": "task_failed", "message": "no"}'::jsonb end, at, at, at
       from generate_series(1, $1::int) n, lateral (select now() - n * interval '2 seconds' as at) times`,
      [finished],
    );
    await client.query(
      `insert into job_attempts (job_id, attempt, status, converter_id, converter, cpu_units, memory_mb, started_at, finished_at)
       select id, 1, status, gen_random_uuid(), 'past-1', 1, 256, started_at, finished_at from jobs where id like 'past\\_%'`,
    );
    await client.query(
      `insert into events (kind, job_id, type, status, attempt, at)
       select 'job', id, type, step, 1, created_at from jobs, unnest(array['ready', 'running', 'completed']) step where id like 'past\\_%'`,
    );
    await client.query(
      `insert into jobs (id, queue_id, type, priority, arrived_at, payload, cpu_units, memory_mb, status, max_attempts, initial_delay_seconds,
         backoff_multiplier, timeout_seconds, ready_at)
       select 'waiting_' || n, gen_random_uuid(), 'noop', 'normal', now() + n * interval '1 millisecond', '{}', $2 + n % $3, 256, 'ready', 3, 1, 2, 300, now()
       from generate_series(1, $1::int) n`,
      [waiting, HUGE_CPU_UNITS, SHAPES],
    );
    await client.query(
      `insert into pgboss.job (id, name, retry_limit, expire_seconds, keep_until, policy)
       select queue_id, 'jobs', 0, 86399, now() + interval '1 year', 'standard'
       from jobs where id like 'waiting\\_%'`,
    );
    await client.query('set session_replication_role = origin');
    await client.query('vacuum analyze');
    // The writing must not take place in the measured time.
    await client.query('checkpoint');
  } finally {
    client.release(true);
  }
}

/** Inserts uploads of one page each. The last `open` uploads are not finished; returns their ids. */
export async function fillUploads(
  pool: Pool,
  { finished, open }: { finished: number; open: number },
): Promise<string[]> {
  const client = await pool.connect();
  try {
    await client.query(`set session_replication_role = replica`);
    await client.query(`set statement_timeout = 0`);
    await client.query(
      `insert into uploads (id, status, priority, dpi, pages_done, pages_total, created_at, finished_at)
       select gen_random_uuid(), 'completed', 'normal', 200, 1, 1, at, at
       from generate_series(1, $1::int) n, lateral (select now() - n * interval '2 seconds' as at) times`,
      [finished],
    );
    const { rows } = await client.query(
      `insert into uploads (id, status, priority, dpi, pages_done, pages_total)
       select gen_random_uuid(), 'processing', 'normal', 200, 1, 2 from generate_series(1, $1::int) n returning id`,
      [open],
    );
    await client.query(
      `insert into originals (upload_id, original, filename, media_type, bytes, sha256, path, page_count)
       select id, 1, 'a.pdf', 'application/pdf', 50000, repeat('0', 64), 'uploads/' || id || '/originals/1.pdf', pages_total
       from uploads`,
    );
    await client.query(
      `insert into pages (upload_id, original, page, status, path, width, height, bytes, sha256, dpi, engine)
       select id, 1, 1, 'completed', 'uploads/' || id || '/pages/1-0001.1.png', 1700, 2200, 90000, repeat('0', 64), 200, 'pdf-to-img'
       from uploads`,
    );
    await client.query('set session_replication_role = origin');
    await client.query('vacuum analyze');
    await client.query('checkpoint');
    return rows.map(({ id }) => id);
  } finally {
    client.release(true);
  }
}
