import { once } from 'node:events';
import { Ajv2020 } from 'ajv/dist/2020.js';
import formats from 'ajv-formats';
import type { Router } from 'express';
import WebSocket from 'ws';
import { createApp } from '../../../api/app.ts';
import { loadTasks } from '../../../conversion/registry.ts';
import { parseConfig } from '../../../runtime/config.ts';
import { createLogger } from '../../../runtime/log.ts';
import { makeImage, makePdf, RED } from '../../support/files.ts';
import { expectNothingLeft, type Json, type Service, startService, until } from '../../support/service.ts';
import { filePart, openPost } from '../uploads/multipart.ts';

/** Makes every call that `GET /openapi.json` describes, and validates every answer by its description. */
let service: Service;
let document: Json;
let ajv: Ajv2020;
let pdf: Buffer;
let png: Buffer;
/** All answers so far, as `GET /uploads 200`. */
const given = new Set<string>();

const UNKNOWN_ID = '01a20a0b-5ccf-7021-8a0f-3f6b1c2d4e5f';
/** An invalid escape in a path. */
const BROKEN = '%ZZ';
/** Headers that a client may act on, so each of them must be described. */
const CHECKED_HEADERS = [
  'location',
  'retry-after',
  'etag',
  'content-range',
  'accept-ranges',
  'cache-control',
  'upgrade',
];

beforeAll(async () => {
  service = await startService({
    env: { TASKS: './examples/tasks/index.ts', MAX_UPLOAD_MB: '1', CAPACITY_MEMORY_MB: '2048' },
  });
  document = await service.get('/openapi.json');
  ajv = new Ajv2020({ strict: true, strictTypes: false, allErrors: true });
  formats.default(ajv);
  // The document contains schemas, but is none.
  ajv.addVocabulary(Object.keys(document)).addSchema(document, 'openapi');
  pdf = await makePdf([{ color: RED }, { color: RED }]);
  png = await makeImage();
});
afterAll(async () => {
  await expectNothingLeft(service);
  await service.stop();
});

interface Answer {
  status: number;
  headers: Headers;
  /** Parsed if it is JSON. */
  body: Json;
}

interface Sent {
  /** Another API process. */
  to?: string;
  query?: string;
  headers?: Record<string, string>;
  /** A form, text, or any other value as JSON. */
  body?: FormData | string | object;
}

/** The errors of a value by the schema at this place of the document. */
function faults(pointer: string[], value: unknown): unknown {
  const escaped = pointer.map((part) => encodeURIComponent(part.replaceAll('~', '~0').replaceAll('/', '~1')));
  const validate = ajv.getSchema(`openapi#/${escaped.join('/')}`);
  if (validate === undefined) throw new Error(`no schema at ${pointer.join(' ')}`);
  return validate(value) ? [] : validate.errors;
}

function resolve(part: Json): Json {
  if (part?.$ref === undefined) return part;
  return part.$ref
    .slice(2)
    .split('/')
    .reduce((inner: Json, key: string) => inner[key.replaceAll('~1', '/')], document);
}

function operations(): { method: string; route: string; operation: Json }[] {
  return Object.entries<Json>(document.paths).flatMap(([route, item]) =>
    Object.entries<Json>(item).map(([method, operation]) => ({ method: method.toUpperCase(), route, operation })),
  );
}

/** Fails unless the document describes this answer with its headers and body. */
function expectDescribed(method: string, route: string, { status, headers, body }: Answer): void {
  const answer = `${method} ${route} ${status}`;
  const place = ['paths', route, method.toLowerCase(), 'responses', String(status)];
  const described = document.paths[route]?.[method.toLowerCase()]?.responses[status];
  if (described === undefined) throw new Error(`${answer} is not described: ${JSON.stringify(body)}`);
  given.add(answer);

  const named = Object.entries<Json>(described.headers ?? {}).map(([name, header]) => [name, resolve(header)] as const);
  for (const [name, { required = false, schema }] of named) {
    const value = headers.get(name);
    const isRight =
      value === null ? !required : ajv.validate(schema, schema.type === 'integer' ? Number(value) : value);
    expect([answer, name, value, isRight]).toEqual([answer, name, value, true]);
  }
  const names = named.map(([name]) => name.toLowerCase());
  expect([answer, CHECKED_HEADERS.filter((name) => headers.has(name) && !names.includes(name))]).toEqual([answer, []]);

  const type = headers.get('content-type')?.split(';')[0] ?? '';
  const types = Object.keys(described.content ?? {});
  if (types.length === 0) expect([answer, body]).toEqual([answer, '']);
  else {
    expect([answer, types]).toEqual([answer, expect.arrayContaining([type])]);
    expect([answer, faults([...place, 'content', type, 'schema'], body)]).toEqual([answer, []]);
  }
}

/** Makes a call with `values` in the braces of its route, and expects the status and an answer as described. */
async function call(
  method: string,
  route: string,
  values: (string | number)[],
  expected: number,
  { to = service.url, query = '', headers = {}, body }: Sent = {},
): Promise<Answer> {
  const left = [...values];
  const path = route.replaceAll(/\{\w+\}/g, () => String(left.shift()));
  const isJson = body !== undefined && typeof body !== 'string' && !(body instanceof FormData);
  const response = await fetch(`${to}${path}${query}`, {
    method,
    redirect: 'manual',
    headers: { ...(isJson && { 'Content-Type': 'application/json' }), ...headers },
    body:
      body === undefined ? null : typeof body === 'string' || body instanceof FormData ? body : JSON.stringify(body),
  });
  const isParsed = /json/.test(response.headers.get('content-type') ?? '');
  const answer = {
    status: response.status,
    headers: response.headers,
    body: isParsed ? await response.json() : Buffer.from(await response.arrayBuffer()).toString('latin1'),
  };
  if (answer.status !== expected) {
    throw new Error(
      `${method} ${path} ${answer.status}, not ${expected}: ${JSON.stringify(answer.body).slice(0, 1000)}`,
    );
  }
  expectDescribed(method, route, answer);
  // An accepted body must be described, too.
  const place = ['paths', route, method.toLowerCase(), 'requestBody', 'content', 'application/json', 'schema'];
  if (isJson && response.ok) expect([route, faults(place, body)]).toEqual([route, []]);
  return answer;
}

/** Expects the refusals that all calls about one resource have in common. */
async function expectNotFound(method: string, route: string, unknown: (string | number)[]): Promise<void> {
  await call(method, route, unknown, 404);
  await call(method, route, [BROKEN, ...unknown.slice(1)], 400);
}

function formOf(files: [string, Uint8Array][], fields: Record<string, string> = {}): FormData {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  for (const [name, bytes] of files) form.append('file', new Blob([Buffer.from(bytes)]), name);
  return form;
}

describe('uploads', () => {
  let id: string;
  let failed: string;

  test('an upload, its repeat and each refusal answer as described', async () => {
    const files: [string, Uint8Array][] = [
      ['two pages.pdf', pdf],
      ['a photo.png', png],
    ];
    const headers = { 'Idempotency-Key': 'an upload' };
    const { body } = await call('POST', '/uploads', [], 200, { body: formOf(files, { priority: 'high' }), headers });
    id = body.id;
    await call('POST', '/uploads', [], 200, { body: formOf(files, { priority: 'high' }), headers });
    await call('POST', '/uploads', [], 422, { body: formOf(files), headers });
    await call('POST', '/uploads', [], 400, { body: formOf([]) });
    await call('POST', '/uploads', [], 400, { body: formOf(files, { pages: '3-1' }) });
    const forbidden = { notify_url: 'http://169.254.169.254/' };
    await call('POST', '/uploads', [], 422, { body: formOf(files, forbidden) });
    await call('POST', '/uploads', [], 415, { body: formOf([['notes.txt', Buffer.from('words')]]) });
    failed = (await call('POST', '/uploads', [], 200, { body: formOf([['cut.png', png.subarray(0, 40)]]) })).body.id;
    await Promise.all([service.done(id), service.done(failed)]);
  });

  test('an upload that is too large or whose key is in use is refused as described', async () => {
    await call('POST', '/uploads', [], 413, { body: formOf([['a.png', Buffer.alloc(2 ** 21)]]) });

    const key = { 'Idempotency-Key': 'slow' };
    const slow = openPost(service.url, key);
    slow.write(filePart('a.png', png).subarray(0, -20));
    const held = `select from idempotency_keys where key = 'slow'`;
    await until(async () => (await service.pool.query(held)).rowCount === 1);
    await call('POST', '/uploads', [], 409, { body: formOf([['a.png', png]]), headers: key });
    slow.destroy();
    await until(async () => (await service.pool.query(held)).rowCount === 0);
  });

  test('lists and documents of completed and failed uploads answer as described', async () => {
    const { body } = await call('GET', '/uploads', [], 200, { query: '?limit=1' });
    await call('GET', '/uploads', [], 200, { query: `?status=completed&cursor=${body.next_cursor}` });
    await call('GET', '/uploads', [], 400, { query: '?limit=0' });
    for (const route of ['', '/status', '/pages', '/originals', '/webhooks'].map((rest) => `/uploads/{id}${rest}`)) {
      for (const one of [id, failed]) await call('GET', route, [one], 200);
      await expectNotFound('GET', route, [UNKNOWN_ID]);
    }
  });

  test.each([
    ['/uploads/{id}/originals/{original}', [1]],
    ['/uploads/{id}/pages/{original}/{page}.png', [1, 2]],
  ])('the bytes of %s answer as described', async (route, numbers) => {
    const of = [id, ...numbers];
    const etag = (await call('GET', route, of, 200)).headers.get('etag') ?? '';
    await call('GET', route, of, 206, { headers: { Range: 'bytes=0-9' } });
    await call('GET', route, of, 304, { headers: { 'If-None-Match': etag, 'Cache-Control': 'max-age=0' } });
    await call('GET', route, of, 412, { headers: { 'If-Match': '"another"' } });
    await call('GET', route, of, 416, { headers: { Range: 'bytes=9999999-' } });
    await expectNotFound('GET', route, [UNKNOWN_ID, ...numbers]);
  });

  test('a download from S3 redirects as described', async () => {
    const env = { STORE_URL: 's3://sheetmill', STORE_DOWNLOADS: 'redirect', AWS_ENDPOINT_URL: 'http://127.0.0.1:1' };
    // Signing a link sends no request to S3.
    const api = await service.startOtherApi({ ...env, AWS_ACCESS_KEY_ID: 'test', AWS_SECRET_ACCESS_KEY: 'test' });
    await call('GET', '/uploads/{id}/originals/{original}', [id, 1], 307, { to: api.url });
    await call('GET', '/uploads/{id}/pages/{original}/{page}.png', [id, 1, 2], 307, { to: api.url });
    await service.end(api.child);
  });

  test('an archive of pages answers as described', async () => {
    const route = '/uploads/{id}/archive.zip';
    const etag = (await call('GET', route, [id], 200)).headers.get('etag') ?? '';
    await call('GET', route, [id], 304, { headers: { 'If-None-Match': etag, 'Cache-Control': 'max-age=0' } });
    await expectNotFound('GET', route, [UNKNOWN_ID]);
  });

  test('cancel, retry and delete of an upload answer as described', async () => {
    const many = await makePdf(Array.from({ length: 10 }, () => ({ color: RED })));
    const { body } = await call('POST', '/uploads', [], 200, { body: formOf([['many.pdf', many]]) });
    await call('GET', '/uploads/{id}/archive.zip', [body.id], 409);
    await call('GET', '/uploads/{id}/status', [body.id], 200, { headers: { Prefer: 'wait=0' } });
    await call('POST', '/uploads/{id}/cancel', [body.id], 200);
    await call('POST', '/uploads/{id}/cancel', [body.id], 409);
    await call('POST', '/uploads/{id}/retry', [body.id], 200);
    await call('POST', '/uploads/{id}/retry', [body.id], 409);
    for (const action of ['cancel', 'retry']) await expectNotFound('POST', `/uploads/{id}/${action}`, [UNKNOWN_ID]);
    for (const one of [body.id, failed]) await call('DELETE', '/uploads/{id}', [one], 204);
    await expectNotFound('DELETE', '/uploads/{id}', [UNKNOWN_ID]);
  });
});

describe('jobs', () => {
  const later = new Date(Date.now() + 3_600_000).toISOString();
  const large = { type: 'noop', payload: { a: 'x'.repeat(10 * 2 ** 20) } };

  /** Expects the refusals of every call with a JSON body. */
  async function expectUnreadable(method: string, route: string, values: string[]): Promise<void> {
    await call(method, route, values, 400, { body: '{', headers: { 'Content-Type': 'application/json' } });
    await call(method, route, values, 413, { body: large });
    await call(method, route, values, 415, { body: '{}', headers: { 'Content-Type': 'text/plain' } });
    const encoded = { 'Content-Type': 'application/json', 'Content-Encoding': 'rot13' };
    await call(method, route, values, 415, { body: '{}', headers: encoded });
  }

  test('a job, a batch and each refusal answer as described', async () => {
    const { body } = await call('POST', '/jobs', [], 201, { body: { job_id: 'alone', type: 'email' } });
    expect(body.job_id).toBe('alone');
    await call('POST', '/jobs', [], 201, {
      body: [
        { job_id: 'late', type: 'noop', run_at: later, priority: 'low', depends_on: [] },
        { job_id: 'blocked', type: 'prime', payload: { input: 10 }, depends_on: ['late'] },
        { job_id: 'bad', type: 'fail', payload: { times: 9 }, retry_config: { max_attempts: 1 } },
        { job_id: 'fickle', type: 'fail', payload: { times: 1 }, retry_config: { initial_delay_seconds: 0 } },
      ],
    });
    await expectUnreadable('POST', '/jobs', []);
    await call('POST', '/jobs', [], 409, { body: { job_id: 'alone', type: 'noop' } });
    const headers = { 'Idempotency-Key': 'a job' };
    await call('POST', '/jobs', [], 201, { body: { type: 'noop' }, headers });
    const refused: [Json, Record<string, string>?][] = [
      [{ type: 'noop', priority: 'low' }, headers],
      [
        [
          { job_id: 'a', type: 'noop', depends_on: ['b'] },
          { job_id: 'b', type: 'noop', depends_on: ['a'] },
        ],
      ],
      [{ type: 'noop', depends_on: ['unknown'] }],
      [{ type: 'checksum', payload: { upload_id: UNKNOWN_ID } }],
      [{ type: 'noop', resource_requirements: { cpu_units: 64 } }],
      [{ type: 'noop', notify_url: 'http://169.254.169.254/' }],
    ];
    const codes = [];
    for (const [body, headers = {}] of refused) {
      codes.push((await call('POST', '/jobs', [], 422, { body, headers })).body.code);
    }
    expect(codes.sort()).toEqual(
      document.paths['/jobs'].post.responses[422].content[
        'application/problem+json'
      ].schema.allOf[1].properties.code.enum.toSorted(),
    );
    await Promise.all(['alone', 'bad', 'fickle'].map((id) => service.jobDone(id)));
  });

  test('lists and documents of jobs in every status answer as described', async () => {
    const { body } = await call('GET', '/jobs', [], 200, { query: '?limit=2' });
    await call('GET', '/jobs', [], 200, { query: `?cursor=${body.next_cursor}` });
    await call('GET', '/jobs', [], 400, { query: '?status=pending' });
    for (const id of ['alone', 'late', 'blocked', 'bad', 'fickle']) {
      await call('GET', '/jobs/{id}', [id], 200);
      await call('GET', '/jobs/{id}/logs', [id], 200);
      await call('GET', '/jobs/{id}/webhooks', [id], 200);
      await call('GET', '/jobs/{id}/graph', [id], 200);
    }
    await call('GET', '/jobs/{id}/logs', ['alone'], 200, { query: '?limit=1' });
    await expectNotFound('GET', '/jobs/{id}', ['unknown']);
    await expectNotFound('GET', '/jobs/{id}/logs', ['unknown']);
    await expectNotFound('GET', '/jobs/{id}/webhooks', ['unknown']);
    await expectNotFound('GET', '/jobs/{id}/graph', ['unknown']);
  });

  test('a change of a job answers as described', async () => {
    await call('PATCH', '/jobs/{id}', ['late'], 200, { body: { priority: 'high', run_at: later, payload: {} } });
    await call('PATCH', '/jobs/{id}', ['late'], 200, { body: { priority: 'normal' } });
    await call('PATCH', '/jobs/{id}', ['alone'], 409, { body: { priority: 'high' } });
    const body = { type: 'checksum', payload: { upload_id: UNKNOWN_ID }, run_at: later };
    await call('POST', '/jobs', [], 422, { body });
    const { id } = (await service.upload([['a.png', png]])).body;
    const sums = (await service.submit({ ...body, payload: { upload_id: id } })).job_id;
    await call('PATCH', '/jobs/{id}', [sums], 422, { body: { payload: body.payload } });
    await call('PATCH', '/jobs/{id}/cancel', [sums], 200);
    await expectUnreadable('PATCH', '/jobs/{id}', ['late']);
    await call('PATCH', '/jobs/{id}', ['unknown'], 404, { body: { priority: 'high' } });
    await call('PATCH', '/jobs/{id}', [BROKEN], 400, { body: { priority: 'high' } });
    await service.done(id);
  });

  test('cancel, retry and bulk operations answer as described', async () => {
    await call('PATCH', '/jobs/{id}/cancel', ['late'], 200);
    await call('PATCH', '/jobs/{id}/cancel', ['late'], 409);
    await expectNotFound('PATCH', '/jobs/{id}/cancel', ['unknown']);
    await call('POST', '/jobs/{id}/retry', ['late'], 200);
    await call('POST', '/jobs/{id}/retry', ['late'], 409);
    await expectNotFound('POST', '/jobs/{id}/retry', ['unknown']);
    const { body } = await call('POST', '/jobs/retry', [], 200, { body: { status: 'failed', type: 'fail' } });
    expect(body).toMatchObject({ count: 1, done: 1 });
    await call('POST', '/jobs/cancel', [], 200, { body: { type: 'nothing' } });
    await call('POST', '/jobs/delete', [], 200, { body: { type: 'nothing' } });
    for (const action of ['retry', 'cancel', 'delete']) await expectUnreadable('POST', `/jobs/${action}`, []);
    await call('GET', '/jobs/bulk/{operation}', [body.id], 200);
    await expectNotFound('GET', '/jobs/bulk/{operation}', [UNKNOWN_ID]);
    await service.jobDone('bad');
    await call('PATCH', '/jobs/{id}/cancel', ['late'], 200);
  });

  test('the stream answers as described, and each event is an Event', async () => {
    const url = `${service.url.replace('http', 'ws')}/jobs/stream`;
    const socket = new WebSocket(`${url}?after=0`);
    const messages: Json[] = [];
    socket.on('message', (data) => messages.push(JSON.parse(String(data))));
    const [upgraded] = await once(socket, 'upgrade');
    expectDescribed('GET', '/jobs/stream', { status: 101, headers: new Headers(upgraded.headers), body: '' });
    await until(async () => ['job', 'page', 'upload'].every((kind) => messages.some((one) => one.kind === kind)));
    for (const message of messages) expect(faults(['components', 'schemas', 'Event'], message)).toEqual([]);
    socket.terminate();

    const refused = new WebSocket(`${url}?after=x`);
    refused.on('error', () => undefined);
    const [, response] = await once(refused, 'unexpected-response');
    const body = JSON.parse((await response.toArray()).join(''));
    expectDescribed('GET', '/jobs/stream', { status: 400, headers: new Headers(response.headers), body });
    await call('GET', '/jobs/stream', [], 426);
  });

  test('job types and schedules answer as described', async () => {
    await call('GET', '/job-types', [], 200);
    for (const change of ['pause', 'resume']) {
      await call('POST', `/job-types/{type}/${change}`, ['checksum'], 200);
      await call('POST', `/job-types/{type}/${change}`, ['nothing'], 404);
    }
    const body = { cron: '0 3 * * *', timezone: 'Europe/Berlin', job: { type: 'noop', priority: 'low' } };
    await call('PUT', '/schedules/{name}', ['nightly'], 200, { body });
    await expectUnreadable('PUT', '/schedules/{name}', ['nightly']);
    const job = { type: 'noop', notify_url: 'http://169.254.169.254/' };
    await call('PUT', '/schedules/{name}', ['nightly'], 422, { body: { ...body, job } });
    await call('GET', '/schedules', [], 200);
    await call('GET', '/schedules/{name}', ['nightly'], 200);
    await expectNotFound('GET', '/schedules/{name}', ['unknown']);
    await call('POST', '/schedules/{name}/run', ['nightly'], 201);
    await call('GET', '/schedules', [], 400, { query: '?limit=0' });
    const alone = { cron: '@daily', overlap: 'skip', job: { type: 'sleep', payload: { input: 60 } } };
    await call('PUT', '/schedules/{name}', ['alone'], 200, { body: alone });
    const ran = await call('POST', '/schedules/{name}/run', ['alone'], 201);
    await call('POST', '/schedules/{name}/run', ['alone'], 409);
    await call('PATCH', '/jobs/{id}/cancel', [ran.body.job_id], 200);
    await call('DELETE', '/schedules/{name}', ['alone'], 204);
    await expectNotFound('POST', '/schedules/{name}/run', ['unknown']);
    await call('DELETE', '/schedules/{name}', ['nightly'], 204);
    await expectNotFound('DELETE', '/schedules/{name}', ['nightly']);
  });
});

describe('operations', () => {
  test.each(['/', '/health/live', '/health/ready', '/system', '/metrics', '/openapi.json', '/docs'])(
    'GET %s answers as described',
    async (route) => {
      await call('GET', route, [], 200);
    },
  );
});

/** Runs last, since it looks back at all answers. */
describe('the document', () => {
  test('has references that resolve, schemas that compile and valid examples', () => {
    expect(document).toMatchObject({ openapi: '3.1.0', info: { title: 'sheetmill', version: expect.any(String) } });
    visit(document, []);
    const ids = operations().map(({ operation }) => operation.operationId);
    expect(new Set(ids).size).toBe(ids.length);
    for (const { route, operation } of operations()) {
      const inPath = (operation.parameters ?? []).filter((one: Json) => one.in === 'path');
      expect(inPath.map(({ name }: Json) => `{${name}}`)).toEqual(route.match(/\{\w+\}/g) ?? []);
    }

    function visit(part: Json, place: string[]): void {
      if (typeof part !== 'object' || part === null) return;
      if (typeof part.$ref === 'string') expect([place, typeof resolve(part)]).toEqual([place, 'object']);
      const pointer = part.schema === undefined ? place : [...place, 'schema'];
      if (part.schema !== undefined) faults(pointer, null);
      const { example, examples = [] } = part;
      const values = Array.isArray(examples) ? examples : Object.values<Json>(examples).map(({ value }) => value);
      for (const one of [example, ...values]) {
        if (one !== undefined) expect([pointer, faults(pointer, one)]).toEqual([pointer, []]);
      }
      for (const [key, inner] of Object.entries(part)) visit(inner, [...place, key]);
    }
  });

  test('describes only answers that the tests above received, except failures of the service and refusals of keys', () => {
    const described = operations().flatMap(({ method, route, operation }) =>
      Object.keys(operation.responses).map((status) => `${method} ${route} ${status}`),
    );
    expect(described.filter((answer) => !given.has(answer) && !/ (401|403|429|500|503)$/.test(answer))).toEqual([]);
  });

  test('describes exactly the routes of the API', async () => {
    // Only the routes are read, so most parts are never used.
    const parts = { tasks: await loadTasks(undefined), config: parseConfig({}), log: createLogger('silent', {}) };
    const app = createApp(parts as Parameters<typeof createApp>[0]);
    expect(routesOf(app.router).sort()).toEqual(
      operations()
        .map(({ method, route }) => `${method} ${route}`)
        .sort(),
    );
  });

  function routesOf({ stack }: Pick<Router, 'stack'>): string[] {
    return stack.flatMap(({ route, handle }) => {
      if (route !== undefined) {
        const path = route.path.replaceAll(/:(\w+)/g, '{$1}');
        return [...new Set(route.stack.map(({ method }) => `${method.toUpperCase()} ${path}`))];
      }
      return 'stack' in handle ? routesOf(handle as unknown as Router) : [];
    });
  }
});
