import { spawn } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { buffer, text } from 'node:stream/consumers';
import { exportJWK, generateKeyPair, SignJWT, UnsecuredJWT } from 'jose';
import WebSocket from 'ws';
import { createAuthorize } from '../../api/http/authorize.ts';
import { parseConfig } from '../../runtime/config.ts';
import { expectProblem } from '../api/http/problems.ts';
import { makeImage, makePdf, RED } from '../support/files.ts';
import { expectNothingLeft, type Json, type Service, startService, until } from '../support/service.ts';

const SCOPES = ['uploads:read', 'uploads:write', 'jobs:read', 'jobs:write'];
const ISSUER = 'https://issuer.example';
const AUDIENCE = 'sheetmill';
const NOWHERE = '01990000-0000-7000-8000-000000000000';
const IN_A_MINUTE = () => Math.floor(Date.now() / 1000) + 60;

const hashOf = (key: string) => createHash('sha256').update(key).digest('hex');
const only = (scope: string) => `only-${scope.replace(':', '-')}`;
const allBut = (scope: string) => `all-but-${scope.replace(':', '-')}`;
/** Keys contain their name, so that they can be found in the log; root is an administrator. */
const KEYS: [key: string, scopes: string[]][] = [
  ['alice', ['uploads:write', 'uploads:read', 'jobs:*']],
  ['bob', SCOPES],
  ['root', ['admin']],
  ...SCOPES.map((scope): [string, string[]] => [only(scope), [scope]]),
  ...SCOPES.map((scope): [string, string[]] => [allBut(scope), SCOPES.filter((one) => one !== scope)]),
];
const tokenOf = (name: string) => `key-of-${name}`;

const signer = await generateKeyPair('RS256');
const stranger = await generateKeyPair('RS256');
let areKeysServed = false;
const issuer = createServer(async (_request, response) => {
  const key = { ...(await exportJWK(signer.publicKey)), kid: 'one', alg: 'RS256', use: 'sig' };
  response.writeHead(areKeysServed ? 200 : 500, { 'Content-Type': 'application/json' });
  response.end(JSON.stringify({ keys: [key] }));
});

let service: Service;
const streams = new Set<WebSocket>();
beforeAll(async () => {
  issuer.listen(0, '127.0.0.1');
  await once(issuer, 'listening');
  service = await startService({
    keepLog: true,
    env: {
      TASKS: './examples/tasks/index.ts',
      LOG_LEVEL: 'info',
      API_KEYS: JSON.stringify(KEYS.map(([name, scopes]) => ({ name, sha256: hashOf(tokenOf(name)), scopes }))),
      JWT_ISSUER: ISSUER,
      JWT_AUDIENCE: AUDIENCE,
      JWT_JWKS_URL: `http://127.0.0.1:${(issuer.address() as AddressInfo).port}/keys`,
    },
  });
});
afterEach(async () => {
  for (const stream of streams) stream.terminate();
  await expectNothingLeft(service);
});
afterAll(async () => {
  await service.stop();
  issuer.close();
});

const bearer = (token: string | undefined): Record<string, string> =>
  token === undefined ? {} : { Authorization: `Bearer ${token}` };

/** The calls of one client, with its token. */
function client(token: string | undefined) {
  const send = (method: string, route: string, body?: unknown, headers: Record<string, string> = {}) =>
    service.send(method, route, body, { ...bearer(token), ...headers });
  return {
    send,
    get: (route: string) => send('GET', route),
    post: (route: string, body?: unknown, headers?: Record<string, string>) => send('POST', route, body, headers),
    /** Gives the body of the answer as text. */
    async ask(method: string, route: string) {
      const response = await fetch(service.url + route, { method, headers: bearer(token) });
      return { status: response.status, headers: response.headers, text: await response.text() };
    },
    async upload(bytes: Buffer, headers: Record<string, string> = {}) {
      const form = new FormData();
      form.append('dpi', '36');
      form.append('file', new Blob([bytes as Uint8Array<ArrayBuffer>]), 'file');
      const response = await fetch(`${service.url}/uploads`, {
        method: 'POST',
        headers: { ...bearer(token), ...headers },
        body: form,
      });
      return { status: response.status, headers: response.headers, body: (await response.json()) as Json };
    },
    jobIn: (status: string, id: string): Promise<Json> =>
      until(async () => {
        const { body } = await send('GET', `/jobs/${id}`);
        return body.status === status && body;
      }),
    uploadDone: (id: string): Promise<Json> =>
      until(async () => {
        const { body } = await send('GET', `/uploads/${id}`);
        return body.finished_at !== null && body;
      }),
  };
}
const named = (name: string) => client(tokenOf(name));

/** A token of the issuer; `changes` replaces claims, or leaves them out when they are undefined. */
function jwt(changes: Json = {}, { privateKey } = signer): Promise<string> {
  const claims = {
    iss: ISSUER,
    aud: AUDIENCE,
    sub: 'carol',
    exp: IN_A_MINUTE(),
    scope: 'openid jobs:read',
    ...changes,
  };
  return new SignJWT(JSON.parse(JSON.stringify(claims)))
    .setProtectedHeader({ alg: 'RS256', kid: 'one' })
    .sign(privateKey);
}

describe.each([
  ['GET', '/uploads', 'uploads:read'],
  ['GET', `/uploads/${NOWHERE}`, 'uploads:read'],
  ['HEAD', `/uploads/${NOWHERE}`, 'uploads:read'],
  ['GET', `/uploads/${NOWHERE}/status`, 'uploads:read'],
  ['GET', `/uploads/${NOWHERE}/pages`, 'uploads:read'],
  ['GET', `/uploads/${NOWHERE}/originals`, 'uploads:read'],
  ['GET', `/uploads/${NOWHERE}/originals/1`, 'uploads:read'],
  ['GET', `/uploads/${NOWHERE}/pages/1/1.png`, 'uploads:read'],
  ['POST', '/uploads', 'uploads:write'],
  ['DELETE', `/uploads/${NOWHERE}`, 'uploads:write'],
  ['GET', '/jobs', 'jobs:read'],
  ['GET', '/jobs/x', 'jobs:read'],
  ['GET', '/jobs/x/logs', 'jobs:read'],
  ['GET', '/jobs/x/graph', 'jobs:read'],
  ['GET', '/jobs/stream', 'jobs:read'],
  ['GET', '/job-types', 'jobs:read'],
  ['GET', '/schedules', 'jobs:read'],
  ['GET', '/schedules/x', 'jobs:read'],
  ['GET', '/system', 'jobs:read'],
  ['GET', '/metrics', 'jobs:read'],
  ['POST', '/jobs', 'jobs:write'],
  ['POST', '/jobs/retry', 'jobs:write'],
  ['POST', '/jobs/cancel', 'jobs:write'],
  ['POST', '/jobs/delete', 'jobs:write'],
  ['GET', `/jobs/bulk/${NOWHERE}`, 'jobs:read'],
  ['POST', '/jobs/x/retry', 'jobs:write'],
  ['PATCH', '/jobs/x/cancel', 'jobs:write'],
  ['PUT', '/schedules/x', 'jobs:write'],
  ['DELETE', '/schedules/x', 'jobs:write'],
  ['POST', '/schedules/x/run', 'jobs:write'],
])('%s %s', (method, route, scope) => {
  test(`requires a key with the scope ${scope}`, async () => {
    for (const token of [undefined, 'wrong', hashOf(tokenOf('root')), '']) {
      const { status, headers } = await client(token).ask(method, route);
      expect([status, headers.get('www-authenticate')]).toEqual([401, 'Bearer']);
    }
    const refused = await named(allBut(scope)).ask(method, route);
    expect(refused.status).toBe(403);
    if (method !== 'HEAD') {
      expect(JSON.parse(refused.text)).toMatchObject({
        code: 'forbidden',
        scope,
        detail: expect.stringContaining(scope),
      });
    }
    for (const name of [only(scope), 'root']) {
      expect([401, 403]).not.toContain((await named(name).ask(method, route)).status);
    }
  });
});

test('only the scope admin pauses and resumes job types, as they are shared by all owners', async () => {
  for (const change of ['pause', 'resume']) {
    const route = `/job-types/noop/${change}`;
    expectProblem(await client(undefined).post(route), 401, 'unauthorized', /Bearer/);
    expectProblem(await named(allBut('uploads:read')).post(route), 403, 'forbidden', /admin/);
    expect((await named('root').post(route)).status).not.toBe(403);
  }
});

test('health, the OpenAPI document and its page require no key', async () => {
  for (const route of ['/health/live', '/health/ready'])
    expect((await client(undefined).ask('GET', route)).status).toBe(200);
  for (const route of ['/openapi.json', '/docs', '/', '/assets/nothing.js'])
    expect((await client('wrong').ask('GET', route)).status).not.toBe(401);
});

test('an unknown path is 401 without a key, and 404 with one', async () => {
  for (const route of ['/nothing', '/Uploads', '//uploads', '/%75ploads', '/constructor']) {
    expectProblem(await client(undefined).get(route), 401, 'unauthorized', /Bearer/);
    expectProblem(await named('root').get(route), 404, 'not_found');
  }
});

test('a key is accepted only as a bearer token', async () => {
  const key = tokenOf('root');
  for (const authorization of [key, `Basic ${btoa(`root:${key}`)}`, `Bearer ${key} ${key}`, `Bearer${key}`]) {
    expectProblem(
      await client(undefined).send('GET', '/jobs', undefined, { Authorization: authorization }),
      401,
      'unauthorized',
    );
  }
  expect((await client(undefined).send('GET', '/jobs', undefined, { Authorization: `bearer ${key}` })).status).toBe(
    200,
  );
  expectProblem(await client(undefined).get(`/jobs?access_token=${key}`), 401, 'unauthorized');
});

describe('a JWT', () => {
  test('is answered with 503 while the keys of its issuer cannot be fetched, and accepted afterwards', async () => {
    areKeysServed = false;
    const carol = client(await jwt());
    const early = await carol.get('/jobs');
    expectProblem(early, 503, 'unavailable', /issuer/);
    expect(early.headers.get('retry-after')).toMatch(/^\d+$/);
    expect((await named('alice').get('/jobs')).status).toBe(200);
    areKeysServed = true;
    expect((await carol.get('/jobs')).status).toBe(200);
  });

  test('has the scopes in its scope claim, and its subject as owner', async () => {
    areKeysServed = true;
    expectProblem(await client(await jwt()).post('/jobs', { type: 'noop' }), 403, 'forbidden', /jobs:write/);
    expectProblem(await client(await jwt({ scope: undefined })).get('/jobs'), 403, 'forbidden', /jobs:read/);
    expectProblem(await client(await jwt({ scope: 'JOBS:* Admin job' })).get('/jobs'), 403, 'forbidden', /jobs:read/);
    const carol = client(await jwt({ scope: 'jobs:*', aud: ['others', AUDIENCE] }));
    const { job_id } = (await carol.post('/jobs', { type: 'noop' })).body;
    await carol.jobIn('completed', job_id);
    expectProblem(await client(await jwt({ sub: 'dave' })).get(`/jobs/${job_id}`), 404, 'not_found');
    expect((await client(await jwt({ sub: 'dave', scope: 'admin' })).get(`/jobs/${job_id}`)).status).toBe(200);
    const { rows } = await service.pool.query('select owner from jobs where id = $1', [job_id]);
    expect(rows).toEqual([{ owner: 'carol' }]);
  });

  test.each<[string, () => Promise<string>, RegExp]>([
    ['that has expired', () => jwt({ exp: IN_A_MINUTE() - 120 }), /exp/],
    ['without an expiry', () => jwt({ exp: undefined }), /exp/],
    ['that is not valid yet', () => jwt({ nbf: IN_A_MINUTE() + 60 }), /nbf/],
    ['from another issuer', () => jwt({ iss: 'https://other.example' }), /iss/],
    ['for another audience', () => jwt({ aud: 'other' }), /aud/],
    ['without a subject', () => jwt({ sub: undefined }), /sub/],
    ['with a subject that cannot be stored', () => jwt({ sub: 'a\0' }), /sub/],
    ['signed with another key', () => jwt({}, stranger), /signature/],
    [
      'that was changed',
      async () => (await jwt()).replace(/\.[^.]+\./, `.${btoa('{"sub":"root"}').replace(/=/g, '')}.`),
      /./,
    ],
    [
      'without a signature',
      async () => new UnsecuredJWT({ iss: ISSUER, aud: AUDIENCE, sub: 'a', exp: IN_A_MINUTE() }).encode(),
      /./,
    ],
    [
      'signed with the public key as a secret',
      async () =>
        new SignJWT({ iss: ISSUER, aud: AUDIENCE, sub: 'root', exp: IN_A_MINUTE() })
          .setProtectedHeader({ alg: 'HS256', kid: 'one' })
          .sign(new TextEncoder().encode(JSON.stringify(await exportJWK(signer.publicKey)))),
      /./,
    ],
    ['that is malformed', async () => 'a.b.c', /./],
  ])('%s is refused', async (_, make, detail) => {
    areKeysServed = true;
    const answer = await client(await make()).get('/jobs');
    expectProblem(answer, 401, 'unauthorized', detail);
    expect(answer.headers.get('www-authenticate')).toBe('Bearer');
  });

  test('can be signed with a configured secret', async () => {
    const secret = 'a secret of more than 32 characters';
    const env = { JWT_ISSUER: ISSUER, JWT_AUDIENCE: AUDIENCE, JWT_SECRET: secret };
    const other = await startService({ converters: 0, env });
    const sign = (words: string) =>
      new SignJWT({ iss: ISSUER, aud: AUDIENCE, sub: 'a', exp: IN_A_MINUTE(), scope: 'jobs:read' })
        .setProtectedHeader({ alg: 'HS256' })
        .sign(new TextEncoder().encode(words));
    const ask = async (token: string) => (await other.send('GET', '/jobs', undefined, bearer(token))).status;
    try {
      expect([await ask(await sign(secret)), await ask(await sign(`${secret}!`)), await ask(await jwt())]).toEqual([
        200, 401, 401,
      ]);
    } finally {
      await other.stop();
    }
  });
});

describe('owners', () => {
  const [alice, bob, root] = [named('alice'), named('bob'), named('root')];
  /** Fails in its only attempt. */
  const bad = { type: 'fail', payload: { times: 9 }, retry_config: { max_attempts: 1 } };
  const idsOf = (answer: Json): string[] => answer.body.items.map(({ id, job_id, name }: Json) => id ?? job_id ?? name);

  test("cannot see each other's uploads; an administrator sees all", async () => {
    const { body } = await alice.upload(await makePdf(Array(30).fill({ color: RED })));
    await alice.uploadDone(body.id);
    const routes = ['', '/status', '/pages', '/originals', '/originals/1', '/pages/1/1.png'].map(
      (rest) => `/uploads/${body.id}${rest}`,
    );
    for (const route of routes) {
      expect([route, (await alice.ask('GET', route)).status, (await root.ask('GET', route)).status]).toEqual([
        route,
        200,
        200,
      ]);
      expectProblem(await bob.get(route), 404, 'not_found');
    }
    expectProblem(await bob.send('DELETE', `/uploads/${body.id}`), 404, 'not_found');
    const mine = (await bob.upload(await makeImage())).body.id;
    await bob.uploadDone(mine);
    expect(idsOf(await alice.get('/uploads?status=completed'))).toEqual([body.id]);
    expect(idsOf(await bob.get('/uploads'))).toEqual([mine]);
    expect(idsOf(await root.get('/uploads'))).toEqual([mine, body.id]);
    // The jobs of an upload have its owner, and jobs of other owners cannot read it.
    const { rows } = await service.pool.query(
      'select type, owner from jobs where upload_id = $1 group by 1, 2 order by 1',
      [body.id],
    );
    expect(rows).toEqual(['convert', 'convert_range'].map((type) => ({ type, owner: 'alice' })));
    expect(idsOf(await bob.get(`/jobs?upload_id=${body.id}`))).toEqual([]);
    const checksum = { type: 'checksum', payload: { upload_id: body.id } };
    expectProblem(await bob.post('/jobs', checksum), 422, 'unknown_upload');
    const schedule = { cron: '0 3 1 1 *', job: checksum };
    expectProblem(await bob.send('PUT', '/schedules/theft', schedule), 422, 'unknown_upload');
    for (const reader of [alice, root]) {
      const { job_id } = (await reader.post('/jobs', checksum)).body;
      await reader.jobIn('completed', job_id);
    }
    expect((await alice.send('DELETE', `/uploads/${body.id}`)).status).toBe(204);
    expect((await root.send('DELETE', `/uploads/${mine}`)).status).toBe(204);
  });

  test("cannot see or change each other's jobs", async () => {
    const { job_id } = (await alice.post('/jobs', { ...bad, job_id: `bad-${randomUUID()}` })).body;
    await alice.jobIn('failed', job_id);
    for (const [method, route] of [
      ['GET', ''],
      ['GET', '/logs'],
      ['PATCH', '/cancel'],
      ['POST', '/retry'],
    ] as const) {
      const others = await bob.send(method, `/jobs/${job_id}${route}`);
      const nobodys = await bob.send(method, `/jobs/${job_id}x${route}`);
      expectProblem(others, 404, 'not_found');
      expect(others.body.detail.replace(job_id, '')).toBe(nobodys.body.detail.replace(`${job_id}x`, ''));
    }
    expect(idsOf(await bob.get('/jobs?status=failed&type=fail'))).toEqual([]);
    expect(idsOf(await root.get('/jobs?status=failed&type=fail'))).toContain(job_id);
    expect((await bob.post('/jobs/retry', { status: 'failed' })).body).toMatchObject({ count: 0 });
    expectProblem(await bob.post('/jobs', { type: 'noop', depends_on: [job_id] }), 422, 'unknown_dependency');
    const { body: retry } = await alice.post('/jobs/retry', { status: 'failed' });
    expect(retry).toMatchObject({ count: 1 });
    expect((await alice.get(`/jobs/bulk/${retry.id}`)).body.id).toBe(retry.id);
    expectProblem(await bob.send('GET', `/jobs/bulk/${retry.id}`), 404, 'not_found');
    await alice.jobIn('failed', job_id);
  });

  test("cannot reuse each other's job ids, and learn nothing about the other job", async () => {
    const job = { job_id: `taken-${randomUUID()}`, type: 'reverse', payload: { input: 'secret' } };
    expect((await alice.post('/jobs', job)).status).toBe(201);
    for (const body of [job, [{ type: 'noop' }, job], { ...job, type: 'noop' }]) {
      const answer = await bob.post('/jobs', body);
      expectProblem(answer, 409, 'conflict');
      expect(answer.text).not.toMatch(/secret|reverse|alice/);
    }
    expect((await alice.post('/jobs', job)).status).toBe(201);
    await alice.jobIn('completed', job.job_id);
  });

  test('can use the same Idempotency-Key', async () => {
    const headers = { 'Idempotency-Key': randomUUID() };
    const [first, other, again] = [
      await alice.post('/jobs', { type: 'noop' }, headers),
      await bob.post('/jobs', { type: 'noop', priority: 'low' }, headers),
      await alice.post('/jobs', { type: 'noop' }, headers),
    ];
    expect([first.status, other.status, again.text]).toEqual([201, 201, first.text]);
    expect(other.body.job_id).not.toBe(first.body.job_id);
    await alice.jobIn('completed', first.body.job_id);
    await bob.jobIn('completed', other.body.job_id);
  });

  test('can use the same name for their schedules, and see only their own', async () => {
    const schedule = (cron: string) => ({ cron, job: { type: 'noop' } });
    expect((await alice.send('PUT', '/schedules/nightly', schedule('0 3 * * *'))).body).toMatchObject({
      name: 'nightly',
      cron: '0 3 * * *',
    });
    expect(idsOf(await bob.get('/schedules'))).toEqual([]);
    expectProblem(await bob.send('DELETE', '/schedules/nightly'), 404, 'not_found');
    expect((await bob.send('PUT', '/schedules/nightly', schedule('0 4 * * *'))).status).toBe(200);
    expect((await alice.get('/schedules')).body.items).toMatchObject([{ name: 'nightly', cron: '0 3 * * *' }]);
    expect(idsOf(await root.get('/schedules'))).toEqual(['nightly', 'nightly']);
    expect((await alice.send('DELETE', '/schedules/nightly')).status).toBe(204);
    expect(idsOf(await bob.get('/schedules'))).toEqual(['nightly']);
    expect((await root.send('DELETE', '/schedules/nightly')).status).toBe(204);
  });

  test('own the jobs of their schedules', async () => {
    const yearly = { cron: '0 3 1 1 *', job: { type: 'noop' } };
    expect((await alice.send('PUT', '/schedules/yearly', yearly)).status).toBe(200);
    expectProblem(await bob.get('/schedules/yearly'), 404, 'not_found');
    expectProblem(await bob.send('POST', '/schedules/yearly/run'), 404, 'not_found');
    expect((await root.get('/schedules/yearly')).body).toMatchObject({ name: 'yearly', last_run_at: null });
    await service.pool.query(
      `update schedules set next_run_at = date_trunc('minute', now()), created_at = now() - interval '1 day'`,
    );
    const ran = await until(async () => {
      const { body } = await alice.get('/schedules/yearly');
      return body.last_run_at !== null && body;
    });
    expect(ran).toMatchObject({ last_error: null });
    const { rows } = await service.pool.query('select last_job_id from schedules');
    await alice.jobIn('completed', rows[0].last_job_id);
    expectProblem(await bob.get(`/jobs/${rows[0].last_job_id}`), 404, 'not_found');
    expect((await alice.send('DELETE', '/schedules/yearly')).status).toBe(204);
    await until(async () => (await service.leftovers()).queued === 0);
  });
});

describe('GET /jobs/stream', () => {
  /** Opens a stream; `events` contains the received events. */
  async function follow(query: string, protocols: string[], headers: Record<string, string> = {}) {
    const socket = new WebSocket(`${service.url.replace('http', 'ws')}/jobs/stream${query}`, protocols, { headers });
    streams.add(socket);
    const events: Json[] = [];
    socket.on('message', (data) => events.push(JSON.parse(String(data))));
    await once(socket, 'open');
    return { socket, events };
  }

  async function refused(protocols: string[], headers: Record<string, string> = {}) {
    const socket = new WebSocket(`${service.url.replace('http', 'ws')}/jobs/stream`, protocols, { headers });
    const [, response] = await once(socket, 'unexpected-response');
    const body: Json = JSON.parse((await buffer(response)).toString());
    return [response.statusCode, response.headers['www-authenticate'], body.code, body.scope];
  }

  test('requires a key with the scope jobs:read, in a header or a subprotocol', async () => {
    expect(await refused([])).toEqual([401, 'Bearer', 'unauthorized', undefined]);
    expect(await refused([], bearer('wrong'))).toEqual([401, 'Bearer', 'unauthorized', undefined]);
    expect(await refused(['sheetmill', 'bearer.wrong'])).toEqual([401, 'Bearer', 'unauthorized', undefined]);
    expect(await refused(['sheetmill', 'bearer.%zz'])).toEqual([401, 'Bearer', 'unauthorized', undefined]);
    const others = tokenOf(allBut('jobs:read'));
    expect(await refused([], bearer(others))).toEqual([403, undefined, 'forbidden', 'jobs:read']);
    expect(await refused(['sheetmill', `bearer.${others}`])).toEqual([403, undefined, 'forbidden', 'jobs:read']);
    const key = tokenOf(only('jobs:read'));
    await follow('', [], bearer(key));
    expect((await follow('', ['sheetmill', `bearer.${key}`])).socket.protocol).toBe('sheetmill');
    const encoded = key.replace(/^./, (first) => `%${first.charCodeAt(0).toString(16)}`);
    expect((await follow('', ['sheetmill', `bearer.${encoded}`])).socket.protocol).toBe('sheetmill');
  });

  test('sends each owner its own stored and new events, and an administrator all', async () => {
    const [alice, bob] = [named('alice'), named('bob')];
    const followAs = (name: string, query: string) => follow(query, [], bearer(tokenOf(name)));
    const upload = (await alice.upload(await makeImage())).body.id;
    await alice.uploadDone(upload);
    const job_id = (await alice.post('/jobs', { type: 'noop' })).body.job_id;
    await alice.jobIn('completed', job_id);
    const ofAlice = await followAs('alice', '?after=0');
    const all = await followAs('root', '?after=0');
    const ofBob = await followAs('bob', '?after=0');
    const ofUpload = await followAs('bob', `?after=0&upload_id=${upload}`);
    const ofJob = await followAs('bob', `?after=0&job_id=${job_id}`);
    const last = (await bob.post('/jobs', { type: 'noop' })).body.job_id;
    const later = (await alice.post('/jobs', { type: 'noop' })).body.job_id;
    const seesEnd = (events: Json[], id: string) =>
      events.some((event) => event.job_id === id && event.status === 'completed');
    await until(async () => seesEnd(ofBob.events, last) && seesEnd(ofAlice.events, later));
    await until(async () => seesEnd(all.events, last) && seesEnd(all.events, later));

    const { rows } = await service.pool.query(
      `select jobs.id from jobs where owner = 'bob' union all select id::text from uploads where owner = 'bob'
       union all select upload_id::text from events where owner = 'bob' and status = 'deleted'`,
    );
    const bobs = new Set(rows.map(({ id }) => id));
    for (const { job_id, upload_id } of ofBob.events) expect(bobs.has(job_id ?? upload_id)).toBe(true);
    for (const { job_id, upload_id } of ofAlice.events) expect(bobs.has(job_id ?? upload_id)).toBe(false);
    const kinds = new Set(ofAlice.events.filter(({ upload_id }) => upload_id === upload).map(({ kind }) => kind));
    expect(kinds).toEqual(new Set(['job', 'page', 'upload']));
    const idsOf = (events: Json[]) => events.map(({ id }) => id);
    expect(idsOf(all.events)).toEqual(expect.arrayContaining([...idsOf(ofAlice.events), ...idsOf(ofBob.events)]));
    expect([ofUpload.events, ofJob.events]).toEqual([[], []]);
  });

  test('sends the deletion of an upload to its owner, and resumes after a deleted event', async () => {
    const alice = named('alice');
    const followAs = (query: string) => follow(query, [], bearer(tokenOf('alice')));
    const all = await followAs('');
    const { id } = (await alice.upload(await makeImage())).body;
    const ofUpload = await followAs(`?upload_id=${id}&after=0`);
    await alice.uploadDone(id);
    const isDone = ({ events }: { events: Json[] }) =>
      events.some((event) => event.kind === 'upload' && event.status === 'completed');
    await until(async () => isDone(all) && isDone(ofUpload));
    const last = all.events.at(-1).id;
    await alice.send('DELETE', `/uploads/${id}`);
    const wasDeleted = ({ events }: { events: Json[] }) => events.at(-1)?.status === 'deleted';
    await until(async () => wasDeleted(all) && wasDeleted(ofUpload));
    const resumed = await followAs(`?after=${last}`);
    await until(async () => wasDeleted(resumed));
    // Events can be repeated while an older transaction runs, such as one of another test.
    const later = resumed.events.filter((event) => event.id > last);
    expect(later.map(({ upload_id, status }) => [upload_id, status])).toEqual([[id, 'deleted']]);
  });

  test('accepts at most a hundred streams of one key, and further ones of other keys', async () => {
    const key = bearer(tokenOf('bob'));
    const open = await Promise.all(Array.from({ length: 100 }, () => follow('', [], key)));
    expect(await refused([], key)).toEqual([429, undefined, 'too_many_requests', undefined]);
    await follow('', [], bearer(tokenOf('alice')));
    for (const { socket } of open) socket.terminate();
    await until(() => follow('', [], key).catch(() => undefined));
  });

  test('reads long headers in linear time', async () => {
    const authorize = createAuthorize(parseConfig({ DATA_DIR: service.folder }));
    const socket = { remoteAddress: '127.0.0.1' };
    const began = performance.now();
    for (const blanks of Array(40).fill(' '.repeat(15_900))) {
      const headers = { 'sec-websocket-protocol': `a${blanks}b`, authorization: `Bearer a${blanks}b` };
      await authorize({ method: 'GET', headers, socket } as unknown as IncomingMessage, '/jobs/stream');
    }
    expect(performance.now() - began).toBeLessThan(2_000);
  });

  test('closes when its token expires', async () => {
    areKeysServed = true;
    const token = await jwt({ exp: Math.floor(Date.now() / 1000) + 2 });
    const { socket } = await follow('', ['sheetmill', `bearer.${token}`]);
    const [code, reason] = await once(socket, 'close');
    expect([code, String(reason)]).toEqual([1008, expect.stringMatching(/expired/)]);
  });
});

test('the log contains no keys or tokens', () => {
  expect(service.log()).toMatch(/"owner":"alice".*"request"/);
  expect(service.log()).not.toMatch(/key-of-|eyJ/);
});

describe('without keys', () => {
  const start = async (command: string[], env: Record<string, string>) => {
    const child = spawn(process.execPath, command, {
      cwd: `${import.meta.dirname}/../..`,
      env: {
        ...process.env,
        NODE_OPTIONS: '',
        DATABASE_URL: 'postgres://127.0.0.1:1/none',
        DATA_DIR: service.folder,
        PORT: '0',
        ...env,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const [[code], stdout, stderr] = await Promise.all([once(child, 'exit'), text(child.stdout), text(child.stderr)]);
    return [code, stdout, stderr];
  };

  test.each([
    [['cli/main.ts', 'serve'], '0.0.0.0'],
    [['api/main.ts'], '::'],
    [['api/main.ts'], '127.0.0.1.example.com'],
  ])('%s does not start on %s, where others can reach it', async (command, HOST) => {
    const refusal = /^sheetmill: HOST="[^"]+": .*API_KEYS.*AUTH=none.*\n$/;
    expect(await start(command, { HOST })).toEqual([1, '', expect.stringMatching(refusal)]);
  });

  test('the service starts there with AUTH=none, and serves every client', async () => {
    const open = await startService({ converters: 0, env: { HOST: '0.0.0.0', AUTH: 'none' } });
    try {
      expect((await open.send('GET', '/jobs')).status).toBe(200);
    } finally {
      await open.stop();
    }
  });
});
