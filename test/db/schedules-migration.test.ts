import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import pg from 'pg';
import { PgBoss } from 'pg-boss';
import { cloneDatabase } from '../support/database.ts';

const MIGRATIONS = path.resolve(import.meta.dirname, '../../migrations');

/** The part of the migration that moves the schedules of pg-boss. */
async function statement(): Promise<string> {
  for (const name of await readdir(MIGRATIONS)) {
    if (!name.endsWith('.sql')) continue;
    const parts = (await readFile(path.join(MIGRATIONS, name), 'utf8')).split('--> statement-breakpoint');
    const found = parts.find((part) => part.includes('pgboss.schedule'));
    if (found !== undefined) return found;
  }
  throw new Error('no migration moves the schedules of pg-boss');
}

test('the migration moves the schedules that pg-boss kept, each with its owner, and once', async () => {
  const { url, drop } = await cloneDatabase();
  const client = new pg.Client({ connectionString: url });
  const boss = new PgBoss({ connectionString: url, max: 1, supervise: false, schedule: false });
  const shape = { cpuUnits: 1, memoryMb: 256 };
  try {
    await client.connect();
    await boss.start();
    await boss.createQueue('cron');
    await boss.createQueue('others');
    const job = { type: 'noop', priority: 'normal', payload: {}, shape };
    const request = { type: 'noop' };
    await boss.schedule('cron', '0 3 * * *', { request, job: { ...job, owner: null } }, { key: 'open', tz: 'UTC' });
    const ofAlice = { request, job: { ...job, owner: 'alice' } };
    await boss.schedule('cron', '0 4 * * *', ofAlice, { key: 'abcdef0123/nightly', tz: 'Europe/Berlin' });
    await boss.schedule('others', '0 5 * * *', {}, { key: 'kept', tz: 'UTC' });
    await client.query(await statement());
    await client.query(await statement());
    const { rows } = await client.query(
      `select name, owner, cron, timezone, paused, overlap, missed, job, next_run_at < created_at as premature
        from schedules order by name`,
    );
    const moved = { paused: false, overlap: 'allow', missed: 'once', job: { request, job }, premature: true };
    expect(rows).toEqual([
      { name: 'nightly', owner: 'alice', cron: '0 4 * * *', timezone: 'Europe/Berlin', ...moved },
      { name: 'open', owner: null, cron: '0 3 * * *', timezone: 'UTC', ...moved },
    ]);
    expect((await client.query('select key from pgboss.schedule')).rows).toEqual([{ key: 'kept' }]);
  } finally {
    await boss.stop({ graceful: false });
    await client.end();
    await drop();
  }
});
