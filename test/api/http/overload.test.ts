import { makeImage } from '../../support/files.ts';
import { expectNothingLeft, type Json, type Service, startService, until } from '../../support/service.ts';
import { answerTo, CLOSING, filePart, openPost, post } from '../uploads/multipart.ts';

const MAX_QUEUED_JOBS = 3;

let png: Buffer;
beforeAll(async () => {
  png = await makeImage();
});

function expectRefusal({ status, headers, body }: Awaited<ReturnType<typeof answerTo>>, detail: RegExp): void {
  expect([status, body.status, body.code]).toEqual([503, 503, 'unavailable']);
  expect(body.detail).toMatch(detail);
  expect(headers['content-type']).toMatch(/^application\/problem\+json/);
  expect(Number(headers['retry-after'])).toBeGreaterThan(0);
}

/** Sends the headers of an upload without its body. */
async function askToSend(url: string, headers: Record<string, string> = {}) {
  const opened = openPost(url, { 'Content-Length': 100_000_000, ...headers });
  opened.flushHeaders();
  try {
    return await answerTo(opened);
  } finally {
    opened.destroy();
  }
}

describe('while MAX_QUEUED_JOBS jobs are ready', () => {
  let service: Service;
  const taken: string[] = [];
  beforeAll(async () => {
    // Refusals are logged as errors.
    const env = { MAX_QUEUED_JOBS: String(MAX_QUEUED_JOBS), LOG_LEVEL: 'fatal' };
    service = await startService({ converters: 0, env });
    await until(async () => {
      const { status, body } = await service.upload([['a.png', png]]);
      if (status === 200) taken.push(body.id);
      return status === 503;
    });
  });
  afterAll(() => service.stop());

  async function waiting(): Promise<number> {
    const { rows } = await service.pool.query(`select count(*)::int as jobs from jobs where status = 'ready'`);
    return rows[0].jobs;
  }

  test('uploads below the limit are accepted', async () => {
    expect(taken.length).toBe(MAX_QUEUED_JOBS);
    expect(await waiting()).toBe(taken.length);
  });

  test('a further upload is refused before its body is sent, and leaves nothing behind', async () => {
    const answer = await askToSend(service.url);
    expectRefusal(answer, /at most 3 jobs may be ready, and 3 are/);
    expect(await waiting()).toBe(taken.length);
    const { filesNotListed, filesMissing, uploads } = await service.leftovers();
    expect({ filesNotListed, filesMissing, uploads }).toEqual({
      filesNotListed: [],
      filesMissing: [],
      uploads: taken.length,
    });
    expect(await service.audit()).toEqual([]);
  });

  test('reads are answered', async () => {
    const { items } = await service.get('/uploads?limit=200');
    expect(items.map(({ id }: Json) => id).sort()).toEqual(taken.toSorted());
    expect(await service.get(`/uploads/${taken[0]}/status`)).toMatchObject({ done: false });
    expect(await service.bytes(`/uploads/${taken[0]}/originals/1`)).toEqual(png);
    expect((await service.get('/jobs?status=ready&limit=200')).items.length).toBe(taken.length);
    expect((await fetch(`${service.url}/health/ready`)).status).toBe(200);
  });

  test('a refused upload is accepted with its Idempotency-Key once a converter has reduced the queue', async () => {
    const headers = { 'Idempotency-Key': 'refused-at-first' };
    expectRefusal(await askToSend(service.url, headers), /jobs may be ready/);
    await service.startConverter();
    for (const id of taken) expect((await service.done(id)).status).toBe('completed');
    const { id } = await until(async () => {
      const { status, body } = await post(service.url, [filePart('a.png', png), CLOSING], headers);
      return status === 200 && body;
    });
    expect((await service.done(id)).status).toBe('completed');
    await expectNothingLeft(service);
  });
});

describe('while the store has less than MIN_FREE_MB free', () => {
  let service: Service;
  beforeAll(async () => {
    service = await startService({ converters: 0, env: { MIN_FREE_MB: '1000000000', LOG_LEVEL: 'fatal' } });
  });
  afterAll(() => service.stop());

  test('an upload is refused before its body is sent, and reads are answered', async () => {
    expectRefusal(await askToSend(service.url), /the store is nearly full/);
    expect((await service.get('/uploads')).items).toEqual([]);
    expect(await service.storedFiles()).toEqual([]);
  });
});
