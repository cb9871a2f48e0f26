import { readFile } from 'node:fs/promises';
import path from 'node:path';
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
  service = await startService({
    env: { TASKS: './examples/tasks/index.ts', CAPACITY_CPU: '2', SHUTDOWN_GRACE_SECONDS: '0' },
  });
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

/** Others deliver what a killed API had locked after half a minute: as if that had passed. */
async function passHalfAMinute(): Promise<void> {
  await service.pool.query(
    `update webhooks set locked_until = now() - interval '1 second', due_at = now() where locked_until is not null`,
  );
}

const statuses = async (): Promise<Record<string, number>> => {
  const { rows } = await service.pool.query('select status, count(*)::int from webhooks group by 1');
  return Object.fromEntries(rows.map(({ status, count }) => [status, count]));
};

test('twelve receivers that never answer hold up neither conversions nor other receivers', async () => {
  // Each port counts as a separate host.
  let answers = true;
  const silent = await Promise.all(
    Array.from({ length: 12 }, () =>
      startReceiver((_path, _before, response) => {
        if (answers) response.end();
      }),
    ),
  );
  const notifyAll = (count: number) =>
    service.submit(
      Array.from({ length: count }, () => silent.map(({ url }) => ({ type: 'noop', notify_url: url('/') }))).flat(),
    );
  try {
    // They are known as prompt, so that each gets four deliveries: more than the places of prompt hosts.
    await notifyAll(1);
    await Promise.all(silent.map(({ have }) => have('/', 1)));
    await until(async () => (await statuses()).pending === undefined);
    answers = false;
    await notifyAll(40);
    // Before the first of them has timed out.
    await until(async () => silent.every(({ at }) => at('/').length === 5), 8_000);
    for (let round = 0; round < 3; round++) {
      const job = await service.submit({ type: 'noop', notify_url: receiver.url(`/in-time-${round}`) });
      const ended = await until(async () => (await service.get(`/jobs/${job.job_id}`)).finished_at ?? undefined);
      await receiver.have(`/in-time-${round}`, 1);
      expect(Date.now() - Date.parse(ended)).toBeLessThan(1_000);
    }
    const files: [string, Uint8Array][] = [['a.pdf', await makePdf([{ color: RED }])]];
    const { body: upload } = await service.upload(files, { notify_url: receiver.url('/in-time') });
    const [received] = (await receiver.have('/in-time', 1)) as [Received];
    expect(await verify(received)).toMatchObject({ type: 'upload.completed', data: { id: upload.id } });
    const attempt = await until(async () => {
      const { rows } = await service.pool.query('select * from webhook_attempts where error is not null limit 1');
      return rows[0];
    });
    expect(attempt).toMatchObject({ attempt: 1, status_code: null, error: 'no answer within 10 s' });
    expect(attempt.duration_ms).toBeGreaterThanOrEqual(9_900);
    // From now on each of them is asked by one delivery at a time.
    const failing = await until(async () => {
      const { rows } = await service.pool.query('select failures, retry_at from webhook_hosts where failures > 0');
      return rows.length === 12 && rows;
    });
    for (const { retry_at } of failing) expect(retry_at).toBeInstanceOf(Date);
  } finally {
    await service.pool.query(`delete from jobs where notify_url not like $1`, [`${receiver.url('')}%`]);
    await Promise.all(silent.map(({ stop }) => stop()));
  }
});

test('the next API delivers the webhook of a job that ended while no API was running', async () => {
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

test('an API that stops returns its running deliveries, and no try is spent', async () => {
  const job = await service.submit({ type: 'noop', notify_url: receiver.url('/silent-at-first') });
  await receiver.have('/silent-at-first', 1);
  await service.end(service.api, 'SIGTERM');
  await service.startApi();
  // The next API need not wait for a lock to run out.
  await receiver.have('/silent-at-first', 2, 5_000);
  expect((await service.get(`/jobs/${job.job_id}/webhooks`)).items[0].attempts).toEqual([]);
  await service.pool.query('delete from jobs where id = $1', [job.job_id]);
});

test('two hundred jobs deliver two hundred webhooks, although API and converter are killed in between', async () => {
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
