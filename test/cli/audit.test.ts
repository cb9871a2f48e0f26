import { cloneDatabase } from '../support/database.ts';
import { query } from '../support/query.ts';
import { sheetmill } from './command.ts';

test('audit prints the inconsistencies of a database, and exits with 1 if there are any', async () => {
  const database = await cloneDatabase();
  const audit = () => sheetmill(['audit'], { env: { DATABASE_URL: database.url } }).ended;
  try {
    expect(await audit()).toEqual({ code: 0, signal: null, stdout: 'no inconsistencies found\n', stderr: '' });
    await query(
      database.url,
      `insert into jobs (id, type, priority, arrived_at, payload, cpu_units, memory_mb, status, queue_id, ready_at,
         max_attempts, initial_delay_seconds, backoff_multiplier, timeout_seconds)
       values ('lost', 'noop', 'normal', now(), '{}', 1, 256, 'ready', gen_random_uuid(), now(), 3, 1, 2, 300)`,
    );
    const { code, stdout, stderr } = await audit();
    expect([code, stderr]).toEqual([1, '']);
    expect(stdout).toBe('violated: a ready job has its pg-boss job: 1 times, for example lost\n');
  } finally {
    await database.drop();
  }
});
