import type { Pool, PoolClient } from 'pg';

/** Fills the tables with numbered rows. Jobs and uploads belong to alice (6 of 10), bob (2) and no owner (2). */
export const JOBS = 1_000_000;
export const UPLOADS = 250_000;
/** The first jobs are ready, those after them scheduled for later, then come a few that run. The others have ended. */
export const READY = 10_000;
const SCHEDULED = 100_000;
const RUNNING = 100;
/** Jobs with events, and with an attempt. */
const RECORDED = 200_000;
const DEPENDANTS = 5_000;

export const jobIdOf = (n: number) => `job_${String(n).padStart(7, '0')}`;
export const uploadIdOf = (n: number) => `01990000-0000-7000-8000-${n.toString(16).padStart(12, '0')}`;
/** Many jobs depend on this one. */
export const HUB = jobIdOf(JOBS);

const owner = `case when n % 10 < 6 then 'alice' when n % 10 < 8 then 'bob' end`;
const uploadId = (n: string) => `('01990000-0000-7000-8000-' || lpad(to_hex(${n}), 12, '0'))::uuid`;
const isWaiting = `n <= ${READY + SCHEDULED + RUNNING}`;
const status = `case when n <= ${READY} then 'ready' when n <= ${READY + SCHEDULED} then 'scheduled'
  when ${isWaiting} then 'running' when n % 100 = 0 then 'cancelled' when n % 10 = 0 then 'failed' else 'completed' end`;
const at = `(now() - (${JOBS} - n) * interval '1 second')`;

const JOB: Record<string, string> = {
  id: `'job_' || lpad(n::text, 7, '0')`,
  type: `case when n % 10 in (6, 7) then 'checksum' else (array['noop', 'email', 'report'])[1 + n % 3] end`,
  owner,
  status,
  priority: `case when n % 1000 = 0 then 'critical' else (array['high', 'normal', 'low'])[1 + n % 3] end`,
  queue_id: `case when n <= ${READY} then gen_random_uuid() end`,
  ready_at: at,
  arrived_at: at,
  due_at: `case when n between ${READY + 1} and ${READY + SCHEDULED} then now() + n * interval '1 second' end`,
  run_at: `case when n between ${READY + 1} and ${READY + SCHEDULED} then now() + n * interval '1 second' end`,
  // Parents: they run without a place in the queue.
  pending_children: `case when ${status} = 'running' then 1 else 0 end`,
  upload_id: `case when n > ${JOBS - UPLOADS} then ${uploadId(`n - ${JOBS - UPLOADS}`)} end`,
  created_at: at,
  started_at: `case when not ${isWaiting} then ${at} end`,
  finished_at: `case when not (${isWaiting}) then ${at} end`,
};

const UPLOAD: Record<string, string> = {
  id: uploadId('n'),
  owner,
  status: `case when n % 10 = 0 then 'failed' else 'completed' end`,
  created_at: `(now() - (${UPLOADS} - n) * interval '3 seconds')`,
  finished_at: `(now() - (${UPLOADS} - n) * interval '3 seconds')`,
};

/**
 * Fills in a million jobs and a quarter of a million uploads, as copies of the newest job and upload that are there, so that
 * columns that these tests do not read need no names. Triggers are off, and indexes are made at the end.
 */
export async function fillMillions(pool: Pool): Promise<void> {
  const client = await pool.connect();
  try {
    await client.query(`set session_replication_role = replica; set statement_timeout = 0;
      set maintenance_work_mem = '512MB'; set work_mem = '256MB'`);
    for (const table of ['uploads', 'jobs']) {
      await client.query(`create temp table ${table}_model as select * from ${table} order by created_at desc limit 1`);
    }
    await client.query('truncate uploads, jobs, events cascade');
    const indexes = await dropIndexes(client);
    await copyMany(client, 'uploads', UPLOAD, UPLOADS);
    await copyMany(client, 'jobs', JOB, JOBS);
    await client.query(`
      insert into originals (upload_id, original, filename, media_type, bytes, sha256, path, page_count)
      select ${uploadId('n')}, 1, 'report ' || n || '.pdf', 'application/pdf', 1000, '', 'p', 1 from generate_series(1, ${UPLOADS}) n;
      insert into pages (upload_id, original, page, status, path, width, height, bytes, sha256, engine)
      select ${uploadId('n')}, 1, 1, 'completed', 'p', 9, 9, 9, '', 'pdfium' from generate_series(1, ${UPLOADS}) n;
      insert into pages (upload_id, original, page, status, path, width, height, bytes, sha256, engine)
      select ${uploadId('1')}, 2, n, 'completed', 'p', 9, 9, 9, '', 'pdfium' from generate_series(1, 100000) n;
      insert into job_dependencies (job_id, depends_on)
      select 'job_' || lpad(n::text, 7, '0'), '${HUB}' from generate_series(${JOBS - DEPENDANTS}, ${JOBS - 1}) n;
      insert into job_dependencies (job_id, depends_on)
      select 'job_' || lpad(n::text, 7, '0'), 'job_' || lpad((n - ${RECORDED})::text, 7, '0') from generate_series(500000, 500000 + ${RECORDED}) n;
      insert into events (kind, job_id, type, status, attempt)
      select 'job', 'job_' || lpad(n::text, 7, '0'), 'noop', step, 1
      from generate_series(1, ${RECORDED}) n, unnest(array['ready', 'running', 'completed']) step;
      insert into job_attempts (job_id, attempt, status, converter_id, converter, cpu_units, memory_mb, error, started_at, finished_at)
      select 'job_' || lpad((${JOBS} - n)::text, 7, '0'), 1, case when n % 10 = 0 then 'failed' else 'completed' end, gen_random_uuid(), 'past-1', 1, 256,
        case when n % 10 = 0 then jsonb_build_object('code', case when n % 1000 = 0 then 'timeout' else 'task_failed' end, 'message', '') end,
        now() - n * interval '1 second', now() - n * interval '1 second'
      from generate_series(1, ${RECORDED}) n`);
    for (const definition of indexes) await client.query(definition);
    await client.query('vacuum (analyze) uploads, originals, pages, jobs, job_dependencies, events, job_attempts');
  } finally {
    client.release(true);
  }
}

/** Drops the indexes that no constraint needs. Gives the statements that make them. */
async function dropIndexes(client: PoolClient): Promise<string[]> {
  const { rows } = await client.query<{ indexname: string; indexdef: string }>(`
    select indexname, indexdef from pg_indexes
    where schemaname = 'public' and tablename in ('uploads', 'originals', 'pages', 'jobs', 'job_dependencies', 'events', 'job_attempts')
      and indexname not in (select conname from pg_constraint)`);
  for (const { indexname } of rows) await client.query(`drop index "${indexname}"`);
  return rows.map(({ indexdef }) => indexdef);
}

/** Makes copies 1 to `count` of a table's model, in which each of `columns` has its own value. */
async function copyMany(
  client: PoolClient,
  table: string,
  columns: Record<string, string>,
  count: number,
): Promise<void> {
  const { rows } = await client.query<{ name: string }>(
    `select column_name as name from information_schema.columns where table_schema = 'public' and table_name = $1`,
    [table],
  );
  const names = rows.map(({ name }) => name);
  const values = names.map((name) => columns[name] ?? `model.${name}`);
  await client.query(
    `insert into ${table} (${names.join(', ')}) select ${values.join(', ')} from ${table}_model model, generate_series(1, ${count}) n`,
  );
}
