import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { PgBoss } from 'pg-boss';
import { Webhook } from 'standardwebhooks';
import { makePdf, RED } from '../support/files.ts';
import { type Received, startReceiver } from '../support/receiver.ts';
import { expectNothingLeft, type Json, type Service, startService, until } from '../support/service.ts';

/** Webhooks when others fail: receivers, and processes that are killed. No secret is configured. */
let service: Service;
let receiver: Awaited<ReturnType<typeof startReceiver>>;
beforeAll(async () => {
  receiver = await startReceiver((path, before, response) => {
    if (!path.startsWith('/silent') && !(path === '/late' && before === 0)) response.end();
  });
  service = await startService({ env: { TASKS: './examples/tasks/index.ts', SHUTDOWN_GRACE_SECONDS: '0' } });
});
afterAll(async () => {
  try {
    await expectNothingLeft(service);
  } finally {
    await Promise.all([service.stop(), receiver.stop()]);
  }
});

async function verify({ text, headers }: Received): Promise<Json> {
  const secret = (await readFile(path.join(service.folder, 'webhook-secret'), 'utf8')).trim();
  return new Webhook(secret).verify(text, headers as Record<string, string>);
}

/** What a killed API was delivering is given back after half a minute, when a converter looks: as if that had passed. */
async function passHalfAMinute(): Promise<void> {
  await service.pool.query(
    `update pgboss.job set started_on = started_on - interval '1 minute' where name = 'webhooks' and state = 'active'`,
  );
  const { connectionString } = service.pool.options;
  const boss = new PgBoss({
    connectionString: connectionString as string,
    supervise: false,
    monitorIntervalSeconds: 1,
  });
  await boss.start();
  await boss.supervise('webhooks');
  await boss.stop({ graceful: false });
}

const statuses = async (): Promise<Record<string, number>> => {
  const { rows } = await service.pool.query('select status, count(*)::int from webhooks group by 1');
  return Object.fromEntries(rows.map(({ status, count }) => [status, count]));
};

test('receivers that never answer hold up neither conversions nor other receivers', async () => {
  // Each port is a receiver of its own to those who share out the places.
  const silent = await Promise.all(Array.from({ length: 3 }, () => startReceiver(() => undefined)));
  try {
    await service.submit(
      silent.flatMap(({ url }) => Array.from({ length: 20 }, () => ({ type: 'noop', notify_url: url('/') }))),
    );
    // Each of them is asked for as many answers as it may be at one time.
    await Promise.all(silent.map(({ have }) => have('/', 4)));
    const files: [string, Uint8Array][] = [['a.pdf', await makePdf([{ color: RED }])]];
    const { body: upload } = await service.upload(files, { notify_url: receiver.url('/in-time') });
    const [received] = (await receiver.have('/in-time', 1)) as [Received];
    expect(await verify(received)).toMatchObject({ type: 'upload.completed', data: { id: upload.id } });
    // It came later than theirs, most of which still wait for a place.
    for (const { at } of silent) expect(at('/').length).toBeLessThan(20);
    const attempt = await until(async () => {
      const { rows } = await service.pool.query('select * from webhook_attempts where error is not null limit 1');
      return rows[0];
    });
    expect(attempt).toMatchObject({ attempt: 1, status_code: null, error: 'no answer within 10 s' });
    expect(attempt.duration_ms).toBeGreaterThanOrEqual(9_900);
  } finally {
    await service.pool.query(`delete from jobs where notify_url not like $1`, [`${receiver.url('')}%`]);
    await Promise.all(silent.map(({ stop }) => stop()));
  }
});

test('an end that comes while no API lives is told by the next one', async () => {
  const job = await service.submit({ type: 'sleep', payload: { input: 1 }, notify_url: receiver.url('/orphan') });
  await service.jobIn('running', job.job_id);
  await service.end(service.api, 'SIGKILL');
  await until(async () => {
    const { rows } = await service.pool.query('select status from webhooks where job_id = $1', [job.job_id]);
    return rows[0]?.status === 'pending';
  });
  expect(receiver.at('/orphan')).toEqual([]);
  await service.startApi();
  const [received] = (await receiver.have('/orphan', 1)) as [Received];
  expect(await verify(received)).toMatchObject({ type: 'job.completed', data: { result: { slept_seconds: 1 } } });
});

test('an API that is killed in the middle of a delivery leaves it to the next one', async () => {
  const job = await service.submit({ type: 'noop', notify_url: receiver.url('/late') });
  await receiver.have('/late', 1);
  await service.end(service.api, 'SIGKILL');
  await service.startApi();
  await passHalfAMinute();
  const received = await receiver.have('/late', 2);
  const [webhook] = await until(async () => {
    const { items } = await service.get(`/jobs/${job.job_id}/webhooks`);
    return items[0].status === 'delivered' && items;
  });
  expect(received.map(({ headers }) => headers['webhook-id'])).toEqual([webhook.id, webhook.id]);
});

test('two hundred jobs tell of two hundred ends, whoever is killed in between', async () => {
  const retry_config = { max_attempts: 10, initial_delay_seconds: 0 };
  const jobs: Json[] = await service.submit(
    Array.from({ length: 200 }, (_, index) => ({
      type: 'fail',
      payload: { times: index % 2 },
      retry_config,
      notify_url: receiver.url('/many'),
    })),
  );
  await receiver.have('/many', 20);
  const [converter] = service.converters;
  if (converter === undefined) throw new Error('no converter');
  await Promise.all([service.end(converter, 'SIGKILL'), service.end(service.api, 'SIGKILL')]);
  await Promise.all([service.startApi(), service.startConverter()]);
  await service.forget(converter);
  const ended = `select count(*)::int from jobs where notify_url = $1 and status = 'completed'`;
  const counted = async () => (await service.pool.query(ended, [receiver.url('/many')])).rows[0].count === 200;
  await until(counted, 40_000);
  await passHalfAMinute();
  await until(async () => (await statuses()).pending === undefined, 40_000);
  const { rows } = await service.pool.query('select job_id, id, type from webhooks where url = $1', [
    receiver.url('/many'),
  ]);
  expect(rows.map(({ job_id }) => job_id).toSorted()).toEqual(jobs.map(({ job_id }) => job_id).toSorted());
  expect(new Set(rows.map(({ type }) => type))).toEqual(new Set(['job.completed']));
  const told = new Set(receiver.at('/many').map(({ headers }) => headers['webhook-id']));
  expect([...told].toSorted()).toEqual(rows.map(({ id }) => id).toSorted());
});
