import { createHash, randomBytes } from 'node:crypto';
import { SignJWT } from 'jose';
import WebSocket from 'ws';
import { encryptedPdf, makeImage } from '../support/files.ts';
import { type Json, type Service, startService, until } from '../support/service.ts';

/** Values that no log may contain. Each is unique, so that it is also found within a URL or a message. */
const secret = (name: string) => `${name}-${randomBytes(12).toString('hex')}`;
const SECRETS = {
  key: secret('key'),
  badKey: secret('bad-key'),
  jwtSecret: secret('jwt-secret-of-enough-characters'),
  password: secret('password'),
  wrongPassword: secret('wrong-password'),
  refusedPassword: secret('refused-password'),
  webhookSecret: randomBytes(32).toString('base64'),
  urlToken: secret('url-token'),
  urlPassword: secret('url-password'),
  redis: secret('redis-password'),
  replica: secret('replica-password'),
  collector: secret('collector-token'),
};
const AUDIENCE = 'sheetmill';
const ISSUER = 'https://issuer.example';

let service: Service;
let jwt: string;
beforeAll(async () => {
  const sha256 = createHash('sha256').update(SECRETS.key).digest('hex');
  service = await startService({
    keepLog: true,
    env: {
      LOG_LEVEL: 'trace',
      TASKS: './examples/tasks/index.ts',
      API_KEYS: JSON.stringify([{ name: 'root', sha256, scopes: ['admin'] }]),
      JWT_ISSUER: ISSUER,
      JWT_AUDIENCE: AUDIENCE,
      JWT_SECRET: SECRETS.jwtSecret,
      WEBHOOK_SECRET: `whsec_${SECRETS.webhookSecret}`,
      // These ports are closed, so that all connections fail.
      REDIS_URL: `redis://:${SECRETS.redis}@127.0.0.1:1`,
      DATABASE_READ_URL: `postgres://reader:${SECRETS.replica}@127.0.0.1:1/replica`,
      OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:1',
      OTEL_EXPORTER_OTLP_HEADERS: `authorization=${SECRETS.collector}`,
      OTEL_EXPORTER_OTLP_TIMEOUT: '200',
      OTEL_BSP_SCHEDULE_DELAY: '20',
    },
  });
  jwt = await new SignJWT({ scope: 'jobs:read jobs:write uploads:read uploads:write' })
    .setProtectedHeader({ alg: 'HS256' })
    .setIssuer(ISSUER)
    .setAudience(AUDIENCE)
    .setSubject('carol')
    .setExpirationTime('1h')
    .sign(new TextEncoder().encode(SECRETS.jwtSecret));
});
afterAll(() => service.stop());

const bearer = (token: string) => ({ Authorization: `Bearer ${token}` });
const root = bearer(SECRETS.key);
const upload = (bytes: Uint8Array, fields: Record<string, string> = {}) =>
  service.upload([['file', bytes]], { ...fields }, root);

async function done(id: string): Promise<Json> {
  return until(async () => {
    const { body } = await service.send('GET', `/uploads/${id}`, undefined, root);
    return body.finished_at !== null && body;
  }, 60_000);
}

/** Each line of all processes, parsed: there is nothing else in a log. */
const lines = (): Json[] =>
  service
    .log()
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line));
const line = (fields: Json): Promise<Json> =>
  until(async () => lines().find((one) => Object.entries(fields).every(([name, value]) => one[name] === value)));

test('log lines of all processes have the ids of the request, the upload and the job', async () => {
  const { body, headers } = await upload(await makeImage());
  await done(body.id);
  const request = await line({ msg: 'request', request: headers.get('x-request-id') });
  expect(request).toMatchObject({
    process: 'api',
    method: 'POST',
    path: '/uploads',
    status: 200,
    owner: 'root',
    upload: body.id,
  });
  const { rows } = await service.pool.query('select id from jobs where upload_id = $1', [body.id]);
  const settled = await line({ msg: 'attempt settled', upload: body.id });
  expect(settled).toMatchObject({
    process: 'converter',
    job: rows[0].id,
    attempt: 1,
    outcome: 'completed',
    trace: request.trace,
  });

  const one = await service.post(
    '/jobs',
    { type: 'fail', payload: { times: 1 }, retry_config: { initial_delay_seconds: 0 } },
    root,
  );
  expect(await line({ request: one.headers.get('x-request-id') })).toMatchObject({ job: one.body.job_id });
  expect(await line({ msg: 'attempt settled', job: one.body.job_id, attempt: 1 })).toMatchObject({ outcome: 'failed' });
  const failed = await line({ msg: 'task failed', job: one.body.job_id });
  expect(failed.detail).toMatch(/^Error: attempt 1 of this job fails, as asked\n +at .*examples/);
  expect(await line({ msg: 'attempt settled', job: one.body.job_id, attempt: 2 })).toMatchObject({
    outcome: 'completed',
  });
  const batch = await service.post('/jobs', [{ type: 'noop' }, { type: 'noop' }], root);
  const jobs = batch.body.items.map(({ job_id }: Json) => job_id);
  expect((await line({ request: batch.headers.get('x-request-id') })).jobs).toEqual(jobs);
});

test('the log has no secret, whatever fails', async () => {
  const { pool } = service;
  // Keys and tokens, good, bad and broken; on WebSockets, too.
  expect((await service.send('GET', '/jobs', undefined, bearer(jwt))).status).toBe(200);
  for (const token of [SECRETS.badKey, `${jwt}x`, `x.${jwt}`])
    expect((await service.send('GET', '/jobs', undefined, bearer(token))).status).toBe(401);
  for (const [token, event] of [
    [jwt, 'open'],
    [SECRETS.badKey, 'error'],
  ] as const) {
    const socket = new WebSocket(`${service.url.replace('http', 'ws')}/jobs/stream`, ['sheetmill', `bearer.${token}`]);
    await new Promise((resolve) => socket.once(event, resolve));
    socket.terminate();
  }
  // PDFs with the right password, and with wrong ones.
  const locked = encryptedPdf(SECRETS.password);
  const right = await upload(locked, { password: SECRETS.password });
  const wrong = await upload(locked, { password: SECRETS.wrongPassword });
  expect((await done(right.body.id)).status).toBe('completed');
  expect((await done(wrong.body.id)).error.code).toBe('wrong_password');
  // Uploads that are refused.
  const { refusedPassword: password } = SECRETS;
  expect((await upload(Buffer.from('text'), { password })).status).toBe(415);
  expect((await upload(locked, { password: password.padEnd(3_000, 'x') })).status).toBe(400);
  expect((await upload(locked, { password, unknown: 'field' })).status).toBe(400);
  expect((await service.send('POST', '/jobs', `{"password": "${password}`, root)).status).toBe(400);
  // Rows that Postgres refuses with an error that shows them: in the API, and in the converter.
  await pool.query(
    `alter table uploads add constraint refused check (dpi <> 100), add constraint held check (dpi <> 101 or status <> 'processing')`,
  );
  expect((await upload(locked, { password, dpi: '100' })).status).toBe(500);
  const held = await upload(locked, { password, dpi: '101' });
  await line({ process: 'converter', msg: 'claim failed' });
  await pool.query('alter table uploads drop constraint refused, drop constraint held');
  await done(held.body.id);
  // Webhooks that cannot be delivered, and URLs with passwords in them.
  const notify_url = `http://127.0.0.1:1/hook?token=${SECRETS.urlToken}`;
  const told = await service.post('/jobs', { type: 'noop', notify_url }, root);
  expect(await line({ msg: 'webhook tried', job: told.body.job_id })).toMatchObject({
    outcome: 'failed',
    host: '127.0.0.1:1',
  });
  const withPassword = `http://user:${SECRETS.urlPassword}@127.0.0.1:1/hook`;
  expect((await service.post('/jobs', { type: 'noop', notify_url: withPassword }, root)).status).toBe(400);

  await service.send('GET', '/uploads', undefined, root);
  for (const msg of [
    'redis connection failed',
    'replica read failed; reading the primary',
    'spans not sent',
    'request failed',
    'task failed',
  ])
    await line({ msg });
  const all = service.log();
  const connection = new URL(process.env.TEST_POSTGRES_URL as string);
  expect(connection.password).not.toBe('');
  const secrets = { ...SECRETS, jwt, postgres: connection.password };
  expect(Object.entries(secrets).flatMap(([name, value]) => (all.includes(value) ? [name] : []))).toEqual([]);
});
