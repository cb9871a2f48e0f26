import type { ChildProcess } from 'node:child_process';
import { type Color, makeImage, makePdf, pixelAt, RED } from '../support/files.ts';
import { type Json, NOTHING_LEFT, type Service, startService, until } from '../support/service.ts';
import { burnsCpu, isAlive, residentMb, sandboxesOf } from './processes.ts';
import { pdfWithSlowPage } from './slow-files.ts';

const pid = (child: ChildProcess) => child.pid as number;

function colorOf(page: number): Color {
  return [(page % 4) * 80, (Math.floor(page / 4) % 4) * 80, Math.floor(page / 16) * 80];
}

/** Pages that take about a third of a second each at 600 dpi. */
function slowPdf(pageCount: number): Promise<Buffer> {
  return makePdf(
    Array.from({ length: pageCount }, (_, index) => ({ width: 420, height: 420, color: colorOf(index + 1) })),
  );
}

describe('a process that is killed', () => {
  let service: Service;
  let converter: ChildProcess;
  beforeAll(async () => {
    const env = { CAPACITY_CPU: '2', CAPACITY_MEMORY_MB: '2048', SHUTDOWN_GRACE_SECONDS: '0' };
    service = await startService({ converters: 0, env });
    converter = await service.startConverter();
  });
  afterAll(() => service.stop());

  async function uploadSlow(pageCount: number): Promise<string> {
    const { status, body } = await service.upload([['a.pdf', await slowPdf(pageCount)]], { dpi: '600' });
    expect(status).toBe(200);
    return body.id;
  }

  async function pagesDone(id: string): Promise<number> {
    const { progress, done } = await service.get(`/uploads/${id}/status`);
    if (done) throw new Error('done before anything could be killed');
    return progress.pages_done;
  }

  /** Every page once, with its own content, and nothing at work any more. */
  async function expectComplete(id: string, pageCount: number): Promise<Json> {
    const done = await service.done(id);
    expect(done).toMatchObject({ status: 'completed', progress: { pages_done: pageCount, pages_total: pageCount } });
    expect(done.pages.map(({ page }: Json) => page)).toEqual(
      Array.from({ length: pageCount }, (_, index) => index + 1),
    );
    for (const { url, page } of done.pages) {
      expect([page, (await pixelAt(await service.bytes(url), 1_500, 1_500)).slice(0, 3)]).toEqual([
        page,
        colorOf(page),
      ]);
    }
    return done;
  }

  /** All but files that were complete on disk when their writer died. */
  async function expectNothingLeft(): Promise<void> {
    await until(async () => (await service.leftovers()).jobs === 0);
    expect({ ...(await service.leftovers()), filesNotListed: [] }).toEqual(NOTHING_LEFT);
  }

  async function attemptsOf(id: string): Promise<{ status: string; code: string | null; count: number }[]> {
    const { rows } = await service.pool.query(
      `select a.status, a.error->>'code' as code, count(*)::int from job_attempts a join jobs j on j.id = a.job_id
       where j.upload_id = $1 group by 1, 2 order by 1, 2`,
      [id],
    );
    return rows;
  }

  test('a sandbox: its page is converted alone, and no other upload is affected', async () => {
    const ids = [await uploadSlow(12), await uploadSlow(12)];
    await until(async () => (await pagesDone(ids[0] as string)) > 0);
    // A sandbox that works on a page: killing an idle one has no effect.
    const holdsPage = (child: number) => burnsCpu(child) && residentMb(child) > 170;
    const sandbox = await until(async () => sandboxesOf(pid(converter)).find(holdsPage));
    process.kill(sandbox, 'SIGKILL');
    for (const id of ids) await expectComplete(id, 12);
    expect(isAlive(pid(converter))).toBe(true);

    const { rows } = await service.pool.query(
      `select j.upload_id, a.attempt, a.error, j.payload->'pages' as pages, j.parent_id from job_attempts a
       join jobs j on j.id = a.job_id where a.status <> 'completed' or a.attempt > 1
       order by a.attempt, j.payload->'pages'`,
    );
    const [killed, ...next] = rows;
    expect(killed).toMatchObject({
      attempt: 1,
      error: { code: 'out_of_memory', message: 'sandbox was killed externally' },
    });
    // The rest of the range: the current page alone, and the others; or the same job, if there are no others.
    const [first, last] = killed.pages[0];
    const alone = next.filter(({ pages: [[from, to]] }) => from === to);
    expect([1, 2]).toContain(next.length);
    expect(next.length === 1 || alone.length > 0).toBe(true);
    for (const { attempt, error, upload_id, parent_id, pages } of next) {
      expect({ attempt, error, upload_id, parent_id }).toEqual({
        attempt: 2,
        error: null,
        upload_id: killed.upload_id,
        parent_id: killed.parent_id,
      });
      for (const [from, to] of pages) expect([from >= first, to <= last]).toEqual([true, true]);
    }
    await expectNothingLeft();
  });

  test('the API: jobs continue, and a new API process serves every document', async () => {
    const id = await uploadSlow(8);
    const small = await service.upload([['small.png', await makeImage()]]);
    await until(async () => (await pagesDone(id)) > 0);
    const before = await service.get(`/uploads/${id}`);
    await service.end(service.api, 'SIGKILL');
    await service.startApi();
    const after = await service.get(`/uploads/${id}`);
    expect(after).toMatchObject({ id, created_at: before.created_at, originals: before.originals });
    expect(after.pages).toEqual(expect.arrayContaining(before.pages));
    await expectComplete(id, 8);
    expect((await service.done(small.body.id)).status).toBe('completed');
    await expectNothingLeft();
  });

  test('a converter that gets SIGTERM: it returns its jobs without spending an attempt', async () => {
    const id = await uploadSlow(60);
    await until(async () => (await pagesDone(id)) > 0);
    const next = service.startConverter();
    const sandboxes = sandboxesOf(pid(converter));
    await service.end(converter, 'SIGTERM');
    expect(converter.exitCode).toBe(0);
    expect(sandboxes.filter(isAlive)).toEqual([]);
    converter = await next;
    await expectComplete(id, 60);
    const attempts = await attemptsOf(id);
    expect(attempts.map(({ status, code }) => [status, code])).toEqual([
      ['completed', null],
      ['returned', null],
    ]);
    const { rows } = await service.pool.query(`select status from converters where name like '%-' || $1`, [
      String(pid(converter)),
    ]);
    expect(rows).toEqual([{ status: 'live' }]);
    await expectNothingLeft();
  });

  test('a converter: its sandboxes die with it, and another one finishes everything', async () => {
    const id = await uploadSlow(60);
    await until(async () => (await pagesDone(id)) > 0);
    const sandboxes = sandboxesOf(pid(converter));
    expect(sandboxes.length).toBeGreaterThan(0);
    const killedAt = Date.now();
    await service.end(converter, 'SIGKILL');
    await until(async () => !sandboxes.some(isAlive), 1_000);
    converter = await service.startConverter();
    await expectComplete(id, 60);
    expect(Date.now() - killedAt).toBeLessThan(40_000);
    const attempts = await attemptsOf(id);
    expect(attempts.map(({ status, code }) => [status, code])).toEqual([
      ['completed', null],
      ['failed', 'converter_lost'],
    ]);
    await expectNothingLeft();
  });
});

describe('a job that exceeds its timeout', () => {
  let service: Service;
  beforeAll(async () => {
    service = await startService({ converters: 0, env: { CAPACITY_CPU: '2' } });
  });
  afterAll(() => service.stop());

  test('fails with timeout, and with it the pages that it owed, and nothing else', async () => {
    // Ranges get their time-out where they are made; here it is short.
    await service.pool.query(`create function hurry() returns trigger language plpgsql as
      $$ begin new.timeout_seconds = 5; new.max_attempts = 1; return new; end $$`);
    await service.pool.query(
      `create trigger hurry before insert on jobs for each row when (new.type = 'convert_range') execute function hurry()`,
    );
    const ranges = await service.upload([['ranges.pdf', pdfWithSlowPage(14, 2)]]);
    const single = await service.upload([['single.pdf', pdfWithSlowPage(1, 1)]]);
    await service.pool.query('update jobs set timeout_seconds = 1, max_attempts = 2 where upload_id = $1', [
      single.body.id,
    ]);
    const converter = await service.startConverter();

    const one = await service.done(single.body.id);
    expect(one).toMatchObject({
      status: 'failed',
      error: { code: 'timeout' },
      originals: [{ error: { code: 'timeout' } }],
    });
    const { rows } = await service.pool.query(
      `select a.status, a.error->>'code' as code from job_attempts a join jobs j on j.id = a.job_id where j.upload_id = $1`,
      [one.id],
    );
    expect(rows).toEqual([
      { status: 'failed', code: 'timeout' },
      { status: 'failed', code: 'timeout' },
    ]);

    const many = await service.done(ranges.body.id);
    expect(many).toMatchObject({
      status: 'failed',
      error: { code: 'timeout' },
      progress: { pages_done: 8, pages_total: 14 },
    });
    expect(many.pages.map(({ page, status, error }: Json) => [page, status, error?.code ?? null])).toEqual([
      [1, 'completed', null],
      ...[2, 3, 4, 5, 6, 7].map((page) => [page, 'failed', 'timeout']),
      ...[8, 9, 10, 11, 12, 13, 14].map((page) => [page, 'completed', null]),
    ]);

    expect(isAlive(pid(converter))).toBe(true);
    const next = await service.upload([['next.png', await makeImage({ color: RED })]]);
    expect((await service.done(next.body.id)).status).toBe('completed');
    expect(await service.leftovers()).toEqual(NOTHING_LEFT);
  });
});
