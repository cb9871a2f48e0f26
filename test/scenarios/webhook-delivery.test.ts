import type { ServerResponse } from 'node:http';
import { Webhook } from 'standardwebhooks';
import { expectProblem } from '../api/http/problems.ts';
import { makePdf, RED } from '../support/files.ts';
import { type Received, startReceiver } from '../support/receiver.ts';
import { expectNothingLeft, type Json, type Service, startService, until } from '../support/service.ts';

const secretOf = (byte: number) => `whsec_${Buffer.alloc(32, byte).toString('base64')}`;
const SECRETS = [secretOf(0), secretOf(1)] as const;
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

let service: Service;
let receiver: Awaited<ReturnType<typeof startReceiver>>;
/** The pending response to the first webhook at /retried. */
let unanswered: ServerResponse | undefined;
beforeAll(async () => {
  receiver = await startReceiver((path, before, response) => {
    if (path === '/fails-twice') response.writeHead(before < 2 ? 503 : 200).end();
    else if (path === '/retried' && before === 0) unanswered = response;
    else if (path === '/gone') response.writeHead(410).end();
    else if (path === '/moved') response.writeHead(307, { Location: receiver.url('/elsewhere') }).end();
    else if (path === '/endless') {
      response.writeHead(200);
      const pour = () => {
        while (response.writable && response.write(Buffer.alloc(65_536)));
      };
      response.on('drain', pour);
      pour();
    } else response.writeHead(204).end();
  });
  service = await startService({ env: { TASKS: './examples/tasks/index.ts', WEBHOOK_SECRET: SECRETS.join(' ') } });
});
afterAll(async () => {
  try {
    await expectNothingLeft(service);
  } finally {
    await Promise.all([service.stop(), receiver.stop()]);
  }
});

async function firstAt(path: string): Promise<Received> {
  const [received] = await receiver.have(path, 1);
  if (received === undefined) throw new Error(`no webhook at ${path}`);
  return received;
}

/** Verifies the signature as a receiver does, with the library and one secret. */
function verify({ text, headers, body }: Received, secret: string): Json {
  const signed = Object.fromEntries(
    ['webhook-id', 'webhook-timestamp', 'webhook-signature'].map((name) => [name, String(headers[name])]),
  );
  expect(new Webhook(secret).verify(text, signed)).toEqual(body);
  return body;
}

/** Gives the webhooks of an upload or job when none is pending. */
const settledAll = (route: string): Promise<Json[]> =>
  until(async () => {
    const { items } = await service.get(`${route}/webhooks`);
    return items.length > 0 && items.every(({ status }: Json) => status !== 'pending') && items;
  });

async function settled(route: string): Promise<Json> {
  const items = await settledAll(route);
  expect(items).toHaveLength(1);
  return items[0];
}

test('an ended upload sends one webhook with its status and counts, signed with every secret', async () => {
  const files: [string, Uint8Array][] = [['a.pdf', await makePdf([{ color: RED }, { color: RED }])]];
  const { status, body: upload } = await service.upload(files, { notify_url: receiver.url('/upload') });
  expect([status, upload.notify_url]).toEqual([200, receiver.url('/upload')]);
  const received = await firstAt('/upload');
  for (const secret of SECRETS) verify(received, secret);
  expect(() => verify(received, secretOf(9))).toThrow();
  expect(() => verify({ ...received, text: `${received.text} ` }, SECRETS[0])).toThrow();
  const document = await service.done(upload.id);
  expect(received.body).toEqual({
    type: 'upload.completed',
    timestamp: document.finished_at,
    data: {
      ...(await service.get(`/uploads/${upload.id}/status`)),
      finished_at: document.finished_at,
      counts: { originals: 1, pages_completed: 2, pages_failed: 0 },
      url: `/uploads/${upload.id}`,
    },
  });
  expect(received.headers).toMatchObject({ 'content-type': 'application/json', 'user-agent': 'sheetmill' });

  const webhook = await settled(`/uploads/${upload.id}`);
  expect(webhook).toEqual({
    id: received.headers['webhook-id'],
    url: receiver.url('/upload'),
    type: 'upload.completed',
    status: 'delivered',
    created_at: document.finished_at,
    finished_at: expect.stringMatching(TIME),
    attempts: [
      {
        attempt: 1,
        started_at: expect.stringMatching(TIME),
        duration_ms: expect.any(Number),
        status_code: 204,
        error: null,
      },
    ],
  });
  expect(receiver.at('/upload')).toHaveLength(1);
});

test('a job that completes, fails or is cancelled sends a webhook with its document', async () => {
  const notify = (name: string) => ({ job_id: name, notify_url: receiver.url(`/${name}`) });
  await service.submit([
    { ...notify('done'), type: 'reverse', payload: { input: 'abc' } },
    { ...notify('broken'), type: 'fail', payload: { times: 1 }, retry_config: { max_attempts: 1 } },
    { ...notify('behind'), type: 'noop', depends_on: ['broken'] },
    { ...notify('dropped'), type: 'noop', run_at: new Date(Date.now() + 3_600_000).toISOString() },
    { type: 'noop' },
  ]);
  await service.patch('/jobs/dropped/cancel');
  for (const [name, type, expected] of [
    ['done', 'job.completed', { result: { output: 'cba' }, counts: { attempts: 1, depends_on: 0 } }],
    ['broken', 'job.failed', { error: { code: 'task_failed' }, counts: { attempts: 1, depends_on: 0 } }],
    ['behind', 'job.failed', { error: { code: 'dependency_failed' }, counts: { attempts: 0, depends_on: 1 } }],
    ['dropped', 'job.cancelled', { counts: { attempts: 0, depends_on: 0 } }],
  ] as const) {
    const received = await firstAt(`/${name}`);
    const { type: found, data } = verify(received, SECRETS[0]);
    const { attempts: _, depends_on: __, ...document } = await service.get(`/jobs/${name}`);
    expect([found, data]).toEqual([type, { ...document, counts: expected.counts, url: `/jobs/${name}` }]);
    expect(data).toMatchObject({ job_id: name, ...expected });
    await settled(`/jobs/${name}`);
    expect(receiver.at(`/${name}`)).toHaveLength(1);
  }
});

test('a webhook that fails twice is delivered at the third attempt with the same id', async () => {
  const job = await service.submit({ type: 'noop', notify_url: receiver.url('/fails-twice') });
  const webhook = await settled(`/jobs/${job.job_id}`);
  expect(webhook).toMatchObject({ status: 'delivered' });
  expect(webhook.attempts.map(({ attempt, status_code, error }: Json) => [attempt, status_code, error])).toEqual([
    [1, 503, 'answered 503'],
    [2, 503, 'answered 503'],
    [3, 200, null],
  ]);
  const received = receiver.at('/fails-twice');
  for (const one of received) verify(one, SECRETS[1]);
  expect(received.map(({ headers }) => headers['webhook-id'])).toEqual(Array(3).fill(webhook.id));
});

test('410 ends a webhook, a redirect is a failure, and an endless answer is cut off', async () => {
  const [gone, moved, endless] = await service.submit(
    ['/gone', '/moved', '/endless'].map((path) => ({ type: 'noop', notify_url: receiver.url(path) })),
  );
  expect(await settled(`/jobs/${gone.job_id}`)).toMatchObject({
    status: 'failed',
    attempts: [{ status_code: 410, error: 'answered 410' }],
  });
  expect(await settled(`/jobs/${endless.job_id}`)).toMatchObject({
    status: 'delivered',
    attempts: [{ status_code: 200 }],
  });
  await receiver.have('/moved', 2);
  const { items } = await service.get(`/jobs/${moved.job_id}/webhooks`);
  expect(items).toMatchObject([{ status: 'pending' }]);
  expect(items[0].attempts[0]).toMatchObject({ status_code: 307, error: 'answered 307' });
  expect(receiver.at('/elsewhere')).toEqual([]);
});

test('an unreachable receiver is recorded as the error of the attempt', async () => {
  const job = await service.submit({ type: 'noop', notify_url: 'http://127.0.0.1:1/hook' });
  const attempt = await until(async () => (await service.get(`/jobs/${job.job_id}/webhooks`)).items[0]?.attempts[0]);
  expect(attempt).toMatchObject({ attempt: 1, status_code: null, error: expect.stringMatching(/ECONNREFUSED/) });
});

test('a webhook about a failure is dropped when the job is retried before it is delivered', async () => {
  const notify = { notify_url: receiver.url('/retried'), retry_config: { max_attempts: 1 } };
  const { job_id } = await service.submit({ type: 'fail', payload: { times: 1 }, ...notify });
  await receiver.have('/retried', 1);
  await service.post(`/jobs/${job_id}/retry`);
  await receiver.have('/retried', 2);
  unanswered?.writeHead(503).end();
  const [failed, completed] = await settledAll(`/jobs/${job_id}`);
  expect(failed).toMatchObject({ type: 'job.failed', status: 'failed' });
  expect(failed.attempts.at(-1).error).toBe('not sent: the status is now completed');
  expect(completed).toMatchObject({ type: 'job.completed', status: 'delivered' });
  expect(receiver.at('/retried').map(({ body }) => [body.type, body.data.status])).toEqual([
    ['job.failed', 'failed'],
    ['job.completed', 'completed'],
  ]);
});

describe('a notify_url', () => {
  test.each([
    ['no URL', 'example.com'],
    ['another protocol', 'ftp://example.com/'],
    ['a script', 'javascript:alert(1)'],
    ['a user name', 'http://me@example.com/'],
    ['a password', 'https://me:secret@example.com/'],
    ['more than 2000 characters', `http://example.com/${'x'.repeat(1_990)}`],
    ['blanks', 'http://example.com/a b'],
    ['a NUL', 'http://example.com/\0'],
  ])('that is %s is refused', async (_, notify_url) => {
    const uploaded = await service.upload([['a.pdf', await makePdf([{ color: RED }])]], { notify_url });
    expect([uploaded.status, uploaded.body.code, uploaded.body.detail]).toEqual([
      400,
      'invalid_request',
      expect.stringMatching(/^notify_url: /),
    ]);
    expectProblem(await service.post('/jobs', { type: 'noop', notify_url }), 400, 'invalid_request', /^notify_url: /);
    const inBatch = await service.post('/jobs', [{ type: 'noop' }, { type: 'noop', notify_url }]);
    expectProblem(inBatch, 400, 'invalid_request', /^1\.notify_url: /);
    const schedule = { cron: '0 0 1 1 *', job: { type: 'noop', notify_url } };
    expectProblem(await service.put('/schedules/a', schedule), 400, 'invalid_request', /^job\.notify_url: /);
  });

  test('that is empty is refused in JSON, and null means none', async () => {
    expectProblem(
      await service.post('/jobs', { type: 'noop', notify_url: '' }),
      400,
      'invalid_request',
      /^notify_url: /,
    );
    expect((await service.post('/jobs', { type: 'noop', notify_url: null })).status).toBe(201);
  });

  test('with a forbidden address is refused at once', async () => {
    const notify_url = 'http://169.254.169.254/latest/meta-data';
    const uploaded = await service.upload([['a.pdf', await makePdf([{ color: RED }])]], { notify_url });
    expect([uploaded.status, uploaded.body.code]).toEqual([422, 'forbidden_url']);
    expectProblem(await service.post('/jobs', { type: 'noop', notify_url }), 422, 'forbidden_url', /169\.254/);
    const schedule = { cron: '0 0 1 1 *', job: { type: 'noop', notify_url } };
    expectProblem(await service.put('/schedules/a', schedule), 422, 'forbidden_url', /169\.254/);
    expect((await service.get('/schedules')).items).toEqual([]);
  });

  test('belongs to the fingerprint of a job with a chosen id', async () => {
    const job = { job_id: 'notified', type: 'noop', notify_url: receiver.url('/notified') };
    expect(await service.submit(job)).toMatchObject({ notify_url: receiver.url('/notified') });
    expect((await service.post('/jobs', job)).status).toBe(201);
    expect((await service.post('/jobs', { ...job, notify_url: receiver.url('/other') })).status).toBe(409);
    await receiver.have('/notified', 1);
    expect(receiver.at('/notified')).toHaveLength(1);
  });

  test('applies to each job of its schedule', async () => {
    const job = { type: 'noop', notify_url: receiver.url('/scheduled') };
    const { body } = await service.put('/schedules/notified', { cron: '0 0 1 1 *', job });
    expect(body.job).toEqual(job);
    expect((await service.post('/schedules/notified/run')).status).toBe(201);
    const received = await firstAt('/scheduled');
    expect(received.body).toMatchObject({ type: 'job.completed', data: { notify_url: receiver.url('/scheduled') } });
    await service.delete('/schedules/notified');
  });
});

test('a job without notify_url has no webhooks, and webhooks of unknown ids are 404', async () => {
  const job = await service.submit({ type: 'noop' });
  await service.jobDone(job.job_id);
  expect(await service.get(`/jobs/${job.job_id}/webhooks`)).toEqual({ items: [], next_cursor: null });
  expectProblem(await service.send('GET', '/jobs/none/webhooks'), 404, 'not_found');
  expectProblem(await service.send('GET', '/uploads/none/webhooks'), 404, 'not_found');
});
