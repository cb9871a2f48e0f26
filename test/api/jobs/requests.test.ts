import { expectNothingLeft, type Json, type Service, startService } from '../../support/service.ts';
import { expectProblem } from '../http/problems.ts';

const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
const JOB_ID = /^job_[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const SOON = new Date(Date.now() + 3_600_000).toISOString();

/** `POST /jobs`, without a converter. */
let service: Service;
beforeAll(async () => {
  service = await startService({ converters: 0, env: { TASKS: './examples/tasks/index.ts' } });
});
afterAll(async () => {
  // A converter must complete all accepted jobs; scheduled ones are cancelled.
  try {
    const { items } = await service.get('/jobs?status=scheduled');
    for (const { job_id } of items) await service.patch(`/jobs/${job_id}/cancel`);
    await service.startConverter({ CAPACITY_CPU: '2' });
    await expectNothingLeft(service);
  } finally {
    await service.stop();
  }
});

const WRITTEN_ANSWER = {
  job_id: expect.stringMatching(JOB_ID),
  type: 'noop',
  status: 'ready',
  priority: 'normal',
  position_in_queue: expect.any(Number),
  payload: {},
  resource_requirements: { cpu_units: 0, memory_mb: 256 },
  depends_on: [],
  run_on: 'success',
  retry_config: { max_attempts: 3, backoff_multiplier: 2, initial_delay_seconds: 1 },
  timeout_seconds: 300,
  run_at: null,
  notify_url: null,
  concurrency_key: null,
  upload_id: null,
  parent_id: null,
  progress: null,
  result: null,
  error: null,
  created_at: expect.stringMatching(TIME),
  started_at: null,
  finished_at: null,
};

describe('a job', () => {
  test('with only a type has every default', async () => {
    const { status, headers, body } = await service.post('/jobs', { type: 'noop' });
    expect([status, headers.get('location'), headers.get('content-type')]).toEqual([
      201,
      `/jobs/${body.job_id}`,
      expect.stringMatching(/^application\/json/),
    ]);
    expect(body).toEqual(WRITTEN_ANSWER);
    expect(await service.get(`/jobs/${body.job_id}`)).toEqual({ ...body, attempts: [] });
  });

  test('has the values and the id of the client, and memory rounded up to a class', async () => {
    await service.submit({ job_id: 'written-first', type: 'noop' });
    const job = {
      job_id: 'written:in.full_1',
      type: 'reverse',
      priority: 'high',
      payload: { input: 'ä\u{1F4C4}', delay_seconds: 0 },
      depends_on: ['written-first'],
      resource_requirements: { cpu_units: 2, memory_mb: 500 },
      retry_config: { max_attempts: 7, backoff_multiplier: 1.5, initial_delay_seconds: 0.25 },
      timeout_seconds: 60,
      run_at: '2026-01-02T03:04:05+01:00',
      notify_url: null,
      concurrency_key: null,
    };
    const { status, headers, body } = await service.post('/jobs', job);
    expect([status, headers.get('location')]).toEqual([201, '/jobs/written%3Ain.full_1']);
    expect(body).toEqual({
      ...WRITTEN_ANSWER,
      ...job,
      status: 'blocked',
      resource_requirements: { cpu_units: 2, memory_mb: 512 },
      run_at: '2026-01-02T02:04:05.000Z',
    });
  });

  test('with a future run_at is scheduled and has no position in the queue', async () => {
    const job = await service.submit({ type: 'noop', run_at: SOON });
    expect(job).toMatchObject({ status: 'scheduled', run_at: SOON, position_in_queue: null });
  });

  test('with an existing id is the existing job if both are equal, and a conflict otherwise', async () => {
    const job = { job_id: 'mine', type: 'reverse', payload: { input: 'a' } };
    const first = await service.post('/jobs', job);
    // Explicit defaults make no difference.
    const again = await service.post('/jobs', { priority: 'normal', ...job, depends_on: [], timeout_seconds: 300 });
    expect([first.status, again.status]).toEqual([201, 201]);
    expect(again.body).toEqual({ ...first.body, position_in_queue: expect.any(Number) });
    for (const other of [
      { ...job, payload: { input: 'b' } },
      { ...job, priority: 'low' },
    ]) {
      expectProblem(await service.post('/jobs', other), 409, 'conflict', /mine/);
    }
    const together = await Promise.all(
      Array.from({ length: 20 }, () => service.post('/jobs', { job_id: 'at-once', type: 'noop' })),
    );
    expect(together.map(({ status }) => status)).toEqual(Array(20).fill(201));
    expect(new Set(together.map(({ body }) => body.created_at)).size).toBe(1);

    // A batch may contain an existing job, and a conflict refuses the whole batch.
    const items = await service.submit([{ type: 'noop' }, job, { job_id: 'beside', type: 'noop' }]);
    expect(items.map(({ job_id }: Json) => job_id)).toEqual([expect.stringMatching(JOB_ID), 'mine', 'beside']);
    expect(items[1]).toEqual({ ...first.body, position_in_queue: null });
    const refused = await service.post('/jobs', [
      { job_id: 'beside-another', type: 'noop' },
      { ...job, type: 'noop', payload: {} },
    ]);
    expectProblem(refused, 409, 'conflict', /mine/);
    expectProblem(await service.send('GET', '/jobs/beside-another'), 404, 'not_found', /beside-another/);
  });
});

test('a batch is answered in its order, independent of dependencies', async () => {
  const batch = Array.from({ length: 30 }, (_, index) => ({
    job_id: `batch-${index}`,
    type: 'noop',
    priority: ['low', 'critical', 'normal'][index % 3],
    depends_on: index === 29 ? [] : [`batch-${index + 1}`, 'batch-29'],
  }));
  const { status, headers, body } = await service.post('/jobs', batch);
  expect([status, headers.get('location'), Object.keys(body)]).toEqual([201, null, ['items']]);
  expect(body.items.map((job: Json) => [job.job_id, job.status, job.position_in_queue, job.priority])).toEqual(
    batch.map(({ job_id, priority }, index) => [job_id, index === 29 ? 'ready' : 'blocked', null, priority]),
  );
  expect(body.items[0].depends_on.sort()).toEqual(['batch-1', 'batch-29']);
  expect(body.items[28].depends_on).toEqual(['batch-29']); // named twice
  const [one] = await service.submit([{ type: 'noop' }]);
  expect(one).toEqual({ ...WRITTEN_ANSWER, position_in_queue: null });
});

describe('POST /jobs refuses', () => {
  let stored: number;
  const count = async () => (await service.pool.query('select count(*)::int from jobs')).rows[0].count;
  beforeAll(async () => {
    stored = await count();
  });
  afterEach(async () => expect(await count()).toBe(stored));

  const deep = (depth: number) => `${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}`;
  const reverse = { type: 'reverse', payload: { input: 'a' } };

  test.each<[string, unknown, RegExp]>([
    ['no type', {}, /^type: /],
    ['an unknown type', { type: 'nothing' }, /^type: must be one of archive, checksum, .*\(got "nothing"\)$/],
    ['an internal type', { type: 'convert', payload: {} }, /^type: must be one of .*\(got "convert"\)$/],
    ['an unknown field', { type: 'noop', colour: 'red' }, /colour/],
    ['a field of the answer', { type: 'noop', status: 'completed' }, /status/],
    ['a payload out of bounds', { type: 'sleep', payload: { input: -1 } }, /^payload\.input: /],
    ['a payload without a required field', { type: 'sleep' }, /^payload\.input: /],
    ['an unknown field of the payload', { ...reverse, payload: { input: 'a', x: 1 } }, /^payload: .*x/],
    ['a payload other than an object', { type: 'noop', payload: [1] }, /^payload: /],
    ['a payload with a NUL', { type: 'noop', payload: { a: ['b\0'] } }, /^payload\.a\.0: must not contain NUL$/],
    ['a payload with a NUL in a name', { type: 'noop', payload: { 'a\0': 1 } }, /^payload: .*NUL/],
    ['a payload with a lone surrogate', { ...reverse, payload: { input: '\ud83d' } }, /^payload\.input: .*surrogate/],
    ['a payload of 500 levels', `{"type": "noop", "payload": ${deep(500)}}`, /deep/],
    ['a payload of 200,000 levels', `{"type": "noop", "payload": ${deep(200_000)}}`, /deep/],
    ['a payload that is too large', { type: 'noop', payload: { a: 'x'.repeat(262_144) } }, /^payload: .*262144/],
    ['an unknown priority', { type: 'noop', priority: 'urgent' }, /^priority: /],
    ['an id with a space', { type: 'noop', job_id: 'a b' }, /^job_id: /],
    ['an id with a slash', { type: 'noop', job_id: '../a' }, /^job_id: /],
    ['an id with a NUL', { type: 'noop', job_id: 'a\0' }, /^job_id: /],
    ['an empty id', { type: 'noop', job_id: '' }, /^job_id: /],
    ['an id of 201 characters', { type: 'noop', job_id: 'x'.repeat(201) }, /^job_id: /],
    ['depends_on other than a list', { type: 'noop', depends_on: 'a' }, /^depends_on: /],
    ['no CPU for a sandbox', { type: 'prime', payload: { input: 1 }, resource_requirements: { cpu_units: 0 } }, /^res/],
    ['too much memory', { type: 'noop', resource_requirements: { memory_mb: 16_385 } }, /^resource_requirements\.mem/],
    ['half a CPU', { type: 'noop', resource_requirements: { cpu_units: 0.5 } }, /^resource_requirements\.cpu_units: /],
    ['no attempts', { type: 'noop', retry_config: { max_attempts: 0 } }, /^retry_config\.max_attempts: /],
    ['a shrinking backoff', { type: 'noop', retry_config: { backoff_multiplier: 0.5 } }, /^retry_config\.backoff/],
    ['a timeout over 12 h', { type: 'noop', timeout_seconds: 43_201 }, /^timeout_seconds: /],
    ['a time without a zone', { type: 'noop', run_at: '2030-01-01T00:00:00' }, /^run_at: /],
    ['a date that does not exist', { type: 'noop', run_at: '2030-02-30T00:00:00Z' }, /^run_at: /],
    ['a time too far away', { type: 'noop', run_at: '9999-12-31T23:59:59Z' }, /^run_at: /],
    ['a time beyond four digits', { type: 'noop', run_at: '9999-12-31T23:59:59-10:00' }, /^run_at: /],
    ['a time before the year 1', { type: 'noop', run_at: '0000-01-01T00:00:00Z' }, /^run_at: /],
    ['an empty concurrency_key', { type: 'noop', concurrency_key: '' }, /^concurrency_key: must not be empty/],
    [
      'a concurrency_key over 200 bytes',
      { type: 'noop', concurrency_key: 'é'.repeat(101) },
      /at most 200 bytes of UTF-8/,
    ],
    ['a concurrency_key with a NUL', { type: 'noop', concurrency_key: 'a\0b' }, /must not contain NUL/],
    ['a notify_url without a scheme', { type: 'noop', notify_url: 'example.com' }, /^notify_url: /],
    [
      'a bad job in a batch',
      [reverse, reverse, reverse, { ...reverse, payload: { input: 1 } }],
      /^3\.payload\.input: /,
    ],
    ['an unknown type in a batch', [reverse, { type: 'nothing' }], /^1\.type: /],
    ['a batch in a batch', [[reverse]], /^0: /],
    [
      'the same id twice in a batch',
      [
        { ...reverse, job_id: 'twice' },
        { ...reverse, job_id: 'twice' },
      ],
      /^1\.job_id: must be unique .*twice/,
    ],
    ['an empty batch', [], /at least one job/],
    ['1001 jobs', Array(1_001).fill({ type: 'noop' }), /1001/],
    ['null', 'null', /./],
    ['a number', '1', /./],
    ['a string', '"noop"', /./],
    ['an empty body', '', /./],
    ['broken JSON', '{"type": "noop"', /./],
    ['text after the JSON', '{"type": "noop"} x', /./],
  ])('%s', async (_, body, detail) => {
    expectProblem(await service.post('/jobs', body), 400, 'invalid_request', detail);
  });

  test('an unknown dependency', async () => {
    const batch = [{ type: 'noop' }, { type: 'nothing yet', depends_on: ['job_unknown'] }];
    for (const body of [batch, batch[1]]) {
      expectProblem(await service.post('/jobs', body), 422, 'unknown_dependency', /job_unknown/);
    }
  });

  test('an unknown upload', async () => {
    const upload_id = '01990000-0000-7000-8000-000000000000';
    for (const type of ['archive', 'checksum']) {
      const answer = await service.post('/jobs', { type, payload: { upload_id } });
      expectProblem(answer, 422, 'unknown_upload', new RegExp(upload_id));
    }
    const badId = await service.post('/jobs', { type: 'archive', payload: { upload_id: 'x' } });
    expectProblem(badId, 400, 'invalid_request', /^payload\.upload_id: /);
  });

  test('a body of another media type, or over 10 MB', async () => {
    for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x']) {
      const answer = await service.post('/jobs', '{"type": "noop"}', { 'Content-Type': type });
      expectProblem(answer, 415, 'unsupported_media_type');
    }
    expectProblem(await service.post('/jobs'), 415, 'unsupported_media_type');
    const large = { type: 'noop', payload: { a: 'x'.repeat(10 * 2 ** 20) } };
    expectProblem(await service.post('/jobs', large), 413, 'file_too_large');
  });

  test('a shape beyond the capacity of every converter', async () => {
    const converter = await service.startConverter({ CAPACITY_CPU: '2', CAPACITY_MEMORY_MB: '1024' });
    const wanted = (cpu_units: number, memory_mb: number) => ({
      type: 'noop',
      resource_requirements: { cpu_units, memory_mb },
    });
    for (const body of [wanted(3, 256), wanted(1, 1025), [wanted(1, 256), wanted(3, 256)]]) {
      const answer = await service.post('/jobs', body);
      expectProblem(answer, 422, 'exceeds_capacity', /^resource_requirements: .*2 CPU and 1024 MB/);
    }
    await service.end(converter);
  });
});
