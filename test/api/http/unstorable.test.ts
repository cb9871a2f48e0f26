import fc from 'fast-check';
import { makeImage } from '../../support/files.ts';
import { type Json, type Service, startService } from '../../support/service.ts';
import { expectProblem } from './problems.ts';

/** JSON, text and numbers that no column can store are refused with 400, and never fail with 500. */
let service: Service;
beforeAll(async () => {
  const limits = { MAX_QUEUED_JOBS: '1000000', MAX_SHAPES_PER_OWNER: '10000' };
  service = await startService({
    converters: 0,
    env: { TASKS: './test/api/jobs/any-payload.ts', LOG_LEVEL: 'fatal', ...limits },
  });
});
afterAll(() => service.stop());

const job = (payload: string) => `{"type": "any", "payload": ${payload}}`;

test.each([
  ['{"n": 1e400}', /^payload\.n: must be a number within the range of IEEE 754 doubles/],
  ['{"a": [{"b": -1e999}]}', /^payload\.a\.0\.b: /],
  ['{"a": "\\u0000"}', /^payload\.a: must not contain NUL/],
  ['{"\\u0000": 1}', /NUL/],
  ['{"a": "\\ud800"}', /^payload\.a: .*surrogate/],
])('the payload %s is refused with its place', async (payload, detail) => {
  expectProblem(await service.post('/jobs', job(payload)), 400, 'invalid_request', detail);
  const [id, { status }] = ['changes', await service.post('/jobs', { job_id: 'changes', type: 'any' })];
  expect(status).toBe(201);
  expectProblem(await service.send('PATCH', `/jobs/${id}`, `{"payload": ${payload}}`), 400, 'invalid_request', detail);
});

test('numbers in the range of doubles are returned unchanged', async () => {
  const sent =
    '{"max":1.7976931348623157e+308,"tiny":5e-324,"safe":9007199254740991,"zero":0,"third":0.3333333333333333}';
  expect((await service.submit(job(sent) as unknown as Json)).payload).toEqual(JSON.parse(sent));
});

test.each([1e-300, 1e-9, 0.0009])('a first delay of %s s is refused', async (delay) => {
  const body = { type: 'any', retry_config: { initial_delay_seconds: delay } };
  expectProblem(await service.post('/jobs', body), 400, 'invalid_request', /must be 0, or from 0\.001 to 3600/);
});

test('first delays of 0 and from a millisecond are accepted', async () => {
  for (const initial_delay_seconds of [0, 0.001, 3_600]) {
    const body = { type: 'any', retry_config: { initial_delay_seconds } };
    expect((await service.post('/jobs', body)).body.retry_config).toMatchObject({ initial_delay_seconds });
  }
});

test('NUL in any field of an upload is refused', async () => {
  const image = await makeImage();
  for (const field of ['password', 'pages', 'notify_url', 'priority', 'dpi', 'expires_at', 'engine', 'a\0b']) {
    const answer = await service.upload([['a.png', image]], { [field]: 'a\0b' });
    expectProblem(answer, 400, 'invalid_request');
  }
  expect((await service.upload([['a\0b.png', image]])).status).toBeLessThan(500);
});

test('random JSON never causes a 5xx', async () => {
  const anyNumber = fc.constantFrom('1e400', '-1e400', '1e-400', '12345678901234567890', '-0', '1E+2', '2147483648');
  const anyText = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 20 }),
    fc.constantFrom('\0', '\ud800', '\udfff\0', '__proto__', 'constructor', "';--"),
  );
  const leaf = fc.oneof(
    anyNumber,
    fc.double().map((n) => JSON.stringify(n)),
    anyText.map((text) => JSON.stringify(text)),
    fc.constantFrom('null', 'true', '{}', '[]'),
  );
  const { value } = fc.letrec<{ value: string }>((tie) => ({
    value: fc.oneof(
      { depthSize: 'small', withCrossShrink: true },
      leaf,
      fc.array(tie('value'), { maxLength: 3 }).map((items) => `[${items.join(',')}]`),
      fc
        .array(fc.tuple(anyText, tie('value')), { maxLength: 3 })
        .map((members) => `{${members.map(([name, inner]) => `${JSON.stringify(name)}:${inner}`).join(',')}}`),
    ),
  }));
  const fields = [
    'job_id',
    'type',
    'priority',
    'payload',
    'depends_on',
    'resource_requirements',
    'retry_config',
    'unique',
  ];
  const nested = [
    'cpu_units',
    'memory_mb',
    'max_attempts',
    'backoff_multiplier',
    'initial_delay_seconds',
    'key',
    'period_seconds',
  ];
  const object = (names: string[], inner: fc.Arbitrary<string>) =>
    fc
      .uniqueArray(fc.tuple(fc.constantFrom(...names), inner), { selector: ([name]) => name, maxLength: 4 })
      .map((members) => `{${['"type":"any"', ...members.map(([name, text]) => `"${name}":${text}`)].join(',')}}`);
  const inner = fc.oneof(
    value,
    object(nested, leaf).map((text) => text.replace('"type":"any",', '').replace('"type":"any"', '')),
  );
  const body = fc.oneof(value, object([...fields, 'timeout_seconds', 'run_at', 'notify_url'], inner));
  const calls = fc.tuple(
    fc.constantFrom('POST /jobs', 'PATCH /jobs/changes', 'POST /jobs/retry', 'PUT /schedules/a'),
    body,
  );
  await fc.assert(
    fc.asyncProperty(fc.array(calls, { minLength: 10, maxLength: 10 }), async (batch) => {
      const answers = await Promise.all(
        batch.map(async ([call, text]) => {
          const [method = '', route = ''] = call.split(' ');
          const { status, body } = await service.send(method, route, text);
          return { call, text, status, body };
        }),
      );
      expect(answers.filter(({ status }) => status >= 500).map(({ call, text, body }) => [call, text, body])).toEqual(
        [],
      );
    }),
    { numRuns: 60, seed: 20_261_129, endOnFailure: true },
  );
}, 60_000);
