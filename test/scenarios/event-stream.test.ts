import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { buffer } from 'node:stream/consumers';
import WebSocket from 'ws';
import { expectProblem } from '../api/http/problems.ts';
import { makePdf, RED } from '../support/files.ts';
import { expectNothingLeft, type Json, type Service, startService, until } from '../support/service.ts';

const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

let service: Service;
const streams = new Set<WebSocket>();
beforeAll(async () => {
  service = await startService({
    env: { TASKS: './examples/tasks/index.ts', CAPACITY_MEMORY_MB: '8192' },
  });
});
afterEach(async () => {
  for (const socket of streams) socket.terminate();
  await expectNothingLeft(service);
});
afterAll(() => service.stop());

/** Opens a stream; `events` has all received events. */
async function follow(query = '') {
  const socket = new WebSocket(`${service.url.replace('http', 'ws')}/jobs/stream${query}`);
  streams.add(socket);
  const closed = new Promise<number>((resolve) => {
    socket.on('close', (code) => {
      streams.delete(socket);
      resolve(code);
    });
  });
  const events: Json[] = [];
  socket.on('message', (data) => events.push(JSON.parse(String(data))));
  await once(socket, 'open');
  // The start of the stream is not exact: only events after a received one are certain.
  return { socket, events, closed };
}

/** Opens a stream of all events, and waits for its first. */
async function followAll() {
  const stream = await follow();
  await until(async () => {
    await service.submit({ type: 'noop' });
    return stream.events.length > 0;
  });
  return stream;
}

/** Gives the ids of all stored events from an event on, in order. */
async function storedIds(from: number): Promise<number[]> {
  const { rows } = await service.pool.query(
    `select id::int from events where kind <> 'log' and (xact, id) >= (select xact, id from events where id = $1)
     order by xact, id`,
    [from],
  );
  return rows.map(({ id }) => id);
}

const idsOf = (events: Json[]) => events.map(({ id }) => id);
const many = (count: number) =>
  Array.from({ length: count }, (_, index) => ({ type: 'noop', priority: ['low', 'high', 'normal'][index % 3] }));

test('the events of one job are sent once and in order, with progress and attempt', async () => {
  const job_id = 'streamed';
  const { events } = await follow(`?job_id=${job_id}&after=0`);
  const payload = { input: 60 };
  await service.submit([{ job_id, type: 'sleep', payload }, { type: 'noop' }]);
  await until(async () => events.at(-1)?.status === 'running');
  for (const done of [1, 3]) {
    await service.pool.query('update jobs set progress = $2 where id = $1', [job_id, { done, total: 4 }]);
    await until(async () => events.at(-1)?.progress?.done === done);
  }
  await service.patch(`/jobs/${job_id}/cancel`);
  await until(async () => events.at(-1)?.status === 'cancelled');
  for (const event of events) {
    expect(event).toEqual({
      id: expect.any(Number),
      kind: 'job',
      job_id,
      upload_id: null,
      type: 'sleep',
      status: expect.any(String),
      attempt: expect.any(Number),
      progress: event.progress && { done: expect.any(Number), total: 4 },
      at: expect.stringMatching(TIME),
    });
  }
  expect(events.map(({ status, attempt, progress }) => [status, attempt, progress?.done])).toEqual([
    ['ready', 0, undefined],
    ['running', 1, undefined],
    ['running', 1, 1],
    ['running', 1, 3],
    ['cancelled', 1, 3],
  ]);
});

test('the stream of an upload has the events of its jobs, its pages and itself', async () => {
  const everything = await followAll();
  const { body } = await service.upload([['a.pdf', await makePdf([{ color: RED }, { color: RED }])]]);
  const { events } = await follow(`?upload_id=${body.id}&after=${everything.events[0].id}`);
  await service.submit(many(20));
  await until(async () => events.at(-1)?.kind === 'upload' && events.at(-1)?.status === 'completed');
  expect(new Set(events.map(({ upload_id }) => upload_id))).toEqual(new Set([body.id]));
  expect(events.filter(({ kind }) => kind === 'page')).toMatchObject([
    { status: 'completed', original: 1, page: 1, job_id: null },
    { status: 'completed', original: 1, page: 2, job_id: null },
  ]);
  const uploads = events.filter(({ kind }) => kind === 'upload');
  expect(uploads.map(({ status }) => status).filter((status, index, all) => status !== all[index - 1])).toEqual([
    'queued',
    'processing',
    'completed',
  ]);
  expect(uploads.at(-1).progress).toEqual({ pages_done: 2, pages_total: 2 });
  expect(events.filter(({ kind }) => kind === 'job').map(({ status }) => status)).toEqual([
    'ready',
    'running',
    'completed',
  ]);
  // A stream of all events has these, too.
  await until(async () => idsOf(events).every((id) => idsOf(everything.events).includes(id)));
});

test('a stream that is cut often resumes without a gap or a repeat while many jobs run', async () => {
  const watcher = await followAll();
  const from = watcher.events[0].id;
  const seen: number[] = [from];
  let cuts = 0;
  const work = Promise.all(Array.from({ length: 6 }, () => service.submit(many(50)))).then(() =>
    until(async () => (await service.leftovers()).jobs === 0, 40_000),
  );
  let done = false;
  const working = work.finally(() => {
    done = true;
  });
  // The last stream starts after the last job, and must send the rest.
  for (let last = false; !last; ) {
    last = done;
    const { socket, events, closed } = await follow(`?after=${seen.at(-1)}`);
    if (last) await until(async () => seen.length + events.length >= (await storedIds(from)).length);
    else await until(async () => events.length > 100 || done);
    socket.terminate();
    await closed;
    seen.push(...idsOf(events));
    cuts++;
  }
  await working;
  expect(cuts).toBeGreaterThan(3);
  expect(seen).toEqual(await storedIds(from));
  await until(async () => watcher.events.length >= seen.length);
  expect(idsOf(watcher.events)).toEqual(seen);
});

test('after= sends all kept events since that id, then new ones', async () => {
  await service
    .submit(many(300))
    .then((jobs: Json[]) => until(async () => (await service.leftovers()).jobs === 0 && jobs));
  const { rows } = await service.pool.query('select id::int from events order by xact, id limit 1 offset 40');
  const old = await follow(`?after=${rows[0].id}`);
  const all = await follow('?after=0');
  await service.submit(many(1));
  const stored = async () => storedIds((await service.pool.query('select min(id)::int as id from events')).rows[0].id);
  await until(async () => (await service.leftovers()).jobs === 0);
  const expected = await stored();
  await until(async () => all.events.length >= expected.length && old.events.at(-1)?.id === expected.at(-1));
  expect(idsOf(all.events)).toEqual(expected);
  expect(idsOf(old.events)).toEqual((await storedIds(rows[0].id)).slice(1));
});

test('losing the LISTEN connection loses no event, and the connection is opened again', async () => {
  const { events } = await followAll();
  const from = events[0].id;
  for (let round = 0; round < 3; round++) {
    const submitted = service.submit(many(40));
    const { rowCount } = await until(async () => {
      const killed = await service.pool.query(
        `select pg_terminate_backend(pid) from pg_stat_activity
         where application_name = 'sheetmill-events' and datname = current_database()`,
      );
      return killed.rowCount === 1 && killed;
    });
    expect(rowCount).toBe(1);
    await submitted;
  }
  await until(async () => (await service.leftovers()).jobs === 0);
  const expected = await storedIds(from);
  await until(async () => events.length >= expected.length);
  expect(idsOf(events)).toEqual(expected);
  await until(async () => {
    const { rows } = await service.pool.query(
      `select 1 from pg_stat_activity where application_name = 'sheetmill-events' and datname = current_database()`,
    );
    return rows.length === 1;
  });
});

test.each([
  ['?job_id=', 400, 'invalid_request'],
  ['?job_id=a%00', 400, 'invalid_request'],
  ['?upload_id=1', 400, 'invalid_request'],
  ['?after=-1', 400, 'invalid_request'],
  ['?after=x', 400, 'invalid_request'],
  ['?colour=red', 400, 'invalid_request'],
  ['/more', 404, 'not_found'],
  ['er', 404, 'not_found'],
])('a WebSocket at /jobs/stream%s is refused with a problem of status %i', async (rest, status, code) => {
  const socket = new WebSocket(`${service.url.replace('http', 'ws')}/jobs/stream${rest}`);
  const [, response] = await once(socket, 'unexpected-response');
  const body: Json = JSON.parse((await buffer(response)).toString());
  expect([response.statusCode, response.headers['content-type'], body.status, body.code]).toEqual([
    status,
    'application/problem+json',
    status,
    code,
  ]);
  expect(body.request_id).toMatch(/./);
});

test('a plain GET of the stream is refused, and a client that sends a message is disconnected', async () => {
  const answer = await service.send('GET', '/jobs/stream');
  expectProblem(answer, 426, 'invalid_request', /WebSocket/);
  expect(answer.headers.get('upgrade')).toBe('websocket');
  const { socket, closed } = await follow();
  socket.send('hello');
  expect(await closed).toBe(1008);
});

test('a client that does not read is disconnected, and resumes without a gap', async () => {
  const { socket, events, closed } = await followAll();
  await until(async () => (await service.leftovers()).jobs === 0);
  const marker = randomUUID();
  const marked = await follow(`?upload_id=${marker}`);
  socket.pause();
  // More than the socket buffers hold, with the marker last.
  await service.pool.query(
    `insert into events (kind, job_id, upload_id, status)
     select 'job', n || repeat('x', 400), case n when 40000 then $1::uuid end, 'ready' from generate_series(1, 40000) n`,
    [marker],
  );
  await until(async () => marked.events.length > 0);
  socket.resume();
  expect(await closed).toBe(1013);
  const last = events.at(-1).id;
  const missed = (await storedIds(last)).slice(1);
  expect(missed.length).toBeGreaterThan(0);
  const resumed = await follow(`?after=${last}`);
  await until(async () => resumed.events.length >= missed.length);
  expect(idsOf(resumed.events)).toEqual(missed);
});

test('an API that stops closes its streams with 1001, and the next API resumes them', async () => {
  const first = await followAll();
  const other = await follow('?job_id=unknown');
  await service.end(service.api);
  expect(await Promise.all([first.closed, other.closed])).toEqual([1001, 1001]);
  await service.startApi();
  const resumed = await follow(`?after=${first.events.at(-1).id}`);
  const { job_id } = await service.submit({ type: 'noop' });
  await until(async () => resumed.events.some((event) => event.job_id === job_id && event.status === 'completed'));
  expect(idsOf([first.events.at(-1), ...resumed.events])).toEqual(await storedIds(first.events.at(-1).id));
});
