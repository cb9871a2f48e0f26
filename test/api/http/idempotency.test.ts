import { randomUUID } from 'node:crypto';
import { BLUE, makeImage, makePdf, RED } from '../../support/files.ts';
import { expectNothingLeft, type Json, type Service, startService, until } from '../../support/service.ts';
import { answerTo, CLOSING, filePart, openPost, part } from '../uploads/multipart.ts';
import { expectProblem } from './problems.ts';

let service: Service;
let png: Buffer;
beforeAll(async () => {
  service = await startService({ env: { TASKS: './examples/tasks/index.ts' } });
  png = await makeImage();
});
afterEach(() => expectNothingLeft(service));
afterAll(() => service.stop());

const post = (key: string, body: unknown) => service.post('/jobs', body, { 'Idempotency-Key': key });

/** Uploads files under a key; gives the answer with its text, as `service.post` does. */
async function upload(key: string, files: [string, Buffer][], fields: Record<string, string> = {}) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  for (const [name, bytes] of files) form.append('file', new Blob([bytes as Uint8Array<ArrayBuffer>]), name);
  const headers = { 'Idempotency-Key': key };
  const response = await fetch(`${service.url}/uploads`, { method: 'POST', headers, body: form });
  const text = await response.text();
  return { status: response.status, headers: response.headers, text, body: JSON.parse(text) as Json };
}

async function countOf(table: 'jobs' | 'uploads'): Promise<number> {
  return (await service.pool.query(`select count(*)::int from ${table}`)).rows[0].count;
}

describe('POST /jobs with an Idempotency-Key', () => {
  test('gives the first answer again byte for byte, even after the job has ended', async () => {
    const key = randomUUID();
    const body = { type: 'reverse', payload: { input: 'abc' }, priority: 'high' };
    const first = await post(key, body);
    expect(first.status).toBe(201);
    await service.jobDone(first.body.job_id);
    const before = await countOf('jobs');
    const again = await post(key, body);
    expect([again.status, again.text, again.headers.get('location')]).toEqual([
      201,
      first.text,
      `/jobs/${first.body.job_id}`,
    ]);
    expect(again.headers.get('content-type')).toBe(first.headers.get('content-type'));
    expect(await countOf('jobs')).toBe(before);
    // Another key is another job.
    expect((await post(randomUUID(), body)).body.job_id).not.toBe(first.body.job_id);
  });

  test('gives the first answer for a batch again', async () => {
    const key = randomUUID();
    const batch = [{ type: 'noop', payload: { 2: 'b', 1: 'a', nested: { z: 1, a: [1.5, null] } } }, { type: 'noop' }];
    const first = await post(key, batch);
    const again = await post(key, batch);
    expect([first.status, again.status, again.text]).toEqual([201, 201, first.text]);
  });

  test('gives the first answer again for the same JSON with members in another order', async () => {
    const key = randomUUID();
    const first = await post(key, { type: 'noop', priority: 'low' });
    expect((await post(key, { priority: 'low', type: 'noop' })).body.job_id).toBe(first.body.job_id);
    expect((await service.post('/jobs', { type: 'noop', job_id: 'stream' })).status).toBe(400);
  });

  test('is refused for another body, even an invalid one', async () => {
    const key = randomUUID();
    expect((await post(key, { type: 'noop' })).status).toBe(201);
    for (const other of [{ type: 'noop', priority: 'low' }, [{ type: 'noop' }], { type: 'nothing' }]) {
      expectProblem(await post(key, other), 422, 'idempotency_mismatch');
    }
  });

  test('creates one row for twenty concurrent requests', async () => {
    const key = randomUUID();
    const before = await countOf('jobs');
    const answers = await Promise.all(Array.from({ length: 20 }, () => post(key, { type: 'noop' })));
    const created = answers.filter(({ status }) => status === 201);
    expect(created.length).toBeGreaterThan(0);
    expect(new Set(created.map(({ text }) => text)).size).toBe(1);
    for (const answer of answers) if (answer.status !== 201) expectProblem(answer, 409, 'conflict', /in progress/);
    expect(await countOf('jobs')).toBe(before + 1);
    const { status, text } = await post(key, { type: 'noop' });
    expect([status, text]).toEqual([201, created[0]?.text]);
  });

  test('can be reused after a refused request', async () => {
    const key = randomUUID();
    const refused: [unknown, number][] = [
      [{ type: 'nothing' }, 400],
      ['{', 400],
      [{ type: 'noop', depends_on: ['job_nobody'] }, 422],
    ];
    for (const [body, status] of refused) {
      // The key is freed around the time of the answer, not always before it.
      await until(async () => (await post(key, body)).status === status);
    }
    expect(await until(async () => (await post(key, { type: 'noop' })).status === 201)).toBe(true);
  });

  test.each(['', 'x'.repeat(256), 'caf\u00e9'])('is refused if its value is %j', async (key) => {
    expectProblem(await post(key, { type: 'noop' }), 400, 'invalid_request', /^Idempotency-Key: /);
  });
});

describe('POST /uploads with an Idempotency-Key', () => {
  test('gives the first answer again byte for byte, and stores no second file', async () => {
    const key = randomUUID();
    const files: [string, Buffer][] = [
      ['a.png', png],
      ['b.pdf', await makePdf([{ color: RED }])],
    ];
    const first = await upload(key, files, { dpi: '100' });
    expect(first.status).toBe(200);
    await service.done(first.body.id);
    const before = await countOf('uploads');
    const again = await upload(key, files, { dpi: '100' });
    expect([again.status, again.text, again.headers.get('location')]).toEqual([
      200,
      first.text,
      `/uploads/${first.body.id}`,
    ]);
    expect(await countOf('uploads')).toBe(before);
  });

  test('is refused for other fields, other bytes, another name or another order', async () => {
    const key = randomUUID();
    const other = await makeImage({ color: BLUE });
    const files: [string, Buffer][] = [
      ['a.png', png],
      ['b.png', other],
    ];
    expect((await upload(key, files)).status).toBe(200);
    for (const answer of [
      await upload(key, files, { dpi: '100' }),
      await upload(key, [
        ['a.png', png],
        ['b.png', png],
      ]),
      await upload(key, [
        ['a.png', png],
        ['c.png', other],
      ]),
      await upload(key, files.toReversed()),
      await upload(key, files.slice(1)),
    ]) {
      expectProblem(answer, 422, 'idempotency_mismatch');
    }
  });

  test('creates one row for twenty concurrent requests', async () => {
    const key = randomUUID();
    const before = await countOf('uploads');
    const answers = await Promise.all(Array.from({ length: 20 }, () => upload(key, [['a.png', png]])));
    const created = answers.filter(({ status }) => status === 200);
    expect(created.length).toBeGreaterThan(0);
    expect(new Set(created.map(({ text }) => text)).size).toBe(1);
    for (const answer of answers) if (answer.status !== 200) expectProblem(answer, 409, 'conflict', /in progress/);
    expect(await countOf('uploads')).toBe(before + 1);
  });

  test('is a conflict while a slow upload holds it; the slow upload gets its answer', async () => {
    const key = randomUUID();
    const opened = openPost(service.url, { 'Transfer-Encoding': 'chunked', 'Idempotency-Key': key });
    const slow = answerTo(opened);
    opened.write(filePart('a.png', png).subarray(0, -20));
    const held = `select from idempotency_keys where key = '${key}'`;
    await until(async () => (await service.pool.query(held)).rowCount === 1);
    expectProblem(await upload(key, [['a.png', png]]), 409, 'conflict', /in progress/);
    expectProblem(await post(key, { type: 'noop' }), 409, 'conflict', /in progress/);
    opened.end(Buffer.concat([filePart('a.png', png).subarray(-20), CLOSING]));
    const { status, body } = await slow;
    expect(status).toBe(200);
    const again = await upload(key, [['a.png', png]]);
    expect([again.status, again.body]).toEqual([200, body]);
  });

  test('can be reused after an upload that was refused or aborted', async () => {
    const key = randomUUID();
    await until(async () => (await upload(key, [['a.txt', Buffer.from('text')]])).status === 415);
    await until(async () => (await upload(key, [['a.png', png]], { dpi: '1' })).status === 400);
    const opened = openPost(service.url, { 'Transfer-Encoding': 'chunked', 'Idempotency-Key': key });
    opened.write(part('Content-Disposition: form-data; name="file"; filename="a.png"', png).subarray(0, -20));
    const held = `select from idempotency_keys where key = '${key}'`;
    await until(async () => (await service.pool.query(held)).rowCount === 1);
    opened.destroy();
    const { body } = await until(async () => {
      const answer = await upload(key, [['a.png', png]]);
      return answer.status === 200 && answer;
    });
    expect((await service.done(body.id)).status).toBe('completed');
    await until(async () => (await service.storedFiles()).every((file) => !file.startsWith('incoming')));
  });

  test('is shared by uploads and jobs: after an upload it is refused for a job', async () => {
    const key = randomUUID();
    expect((await upload(key, [['a.png', png]])).status).toBe(200);
    expectProblem(await post(key, { type: 'noop' }), 422, 'idempotency_mismatch');
  });
});
