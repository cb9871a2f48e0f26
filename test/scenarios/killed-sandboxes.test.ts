import type { ChildProcess } from 'node:child_process';
import { setTimeout as delay } from 'node:timers/promises';
import { makeImage, makePdf } from '../support/files.ts';
import { type Json, NOTHING_LEFT, type Service, startService, until } from '../support/service.ts';
import { sandboxesOf } from './processes.ts';

const SEED = 20_260_101;
const MAX_KILLS = 20;
const KILL_EVERY_MS = 150;
const PAGES = 300;
const IMAGES = 50;

let service: Service;
let converter: ChildProcess;
beforeAll(async () => {
  const env = { CAPACITY_CPU: '2', CAPACITY_MEMORY_MB: '2048', LOG_LEVEL: 'fatal' };
  service = await startService({ converters: 0, env });
  converter = await service.startConverter();
});
afterAll(() => service.stop());

/** Numbers from 0 to 1, the same ones for a seed (mulberry32). */
function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function sandboxes(): number[] {
  return sandboxesOf(converter.pid as number);
}

/** Kills one sandbox after another, busy or not, until `signal` or often enough; gives how many. */
async function killAtRandom(signal: AbortSignal): Promise<number> {
  const random = seeded(SEED);
  let kills = 0;
  while (kills < MAX_KILLS && !signal.aborted) {
    await delay(KILL_EVERY_MS * (0.5 + random()));
    const found = sandboxes();
    const victim = found[Math.floor(random() * found.length)];
    if (victim === undefined) continue;
    process.kill(victim, 'SIGKILL');
    kills++;
  }
  return kills;
}

test('sandboxes that are killed at random lose no page, and spend attempts only of the uploads that they convert', async () => {
  const pdf = await makePdf(
    Array.from({ length: PAGES }, (_, index) => ({ color: [index % 200, 80, 80], text: `${index + 1}` })),
  );
  const images = await Promise.all(
    Array.from({ length: IMAGES }, (_, index) =>
      makeImage({ width: 200, height: 100 + index, color: [index, 90, 90] }),
    ),
  );
  const over = new AbortController();
  const killing = killAtRandom(over.signal);
  const answers = await Promise.all([
    service.upload([['a.pdf', pdf]]),
    ...images.map((image, index) => service.upload([[`${index}.png`, image]])),
  ]);
  expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]));
  const documents: Json[] = await Promise.all(answers.map(({ body }) => service.done(body.id)));
  over.abort();
  const kills = await killing;
  expect(kills).toBeGreaterThan(5);

  expect(documents.filter(({ status }) => status !== 'completed')).toEqual([]);
  const [{ id, progress, pages: first, pages_next_cursor: cursor }, ...others] = documents;
  const { items } = await service.get(`/uploads/${id}/pages?limit=200&cursor=${cursor}`);
  const pages = [...first, ...items];
  expect(progress).toEqual({ pages_done: PAGES, pages_total: PAGES });
  expect(pages.map(({ page }: Json) => page)).toEqual(Array.from({ length: PAGES }, (_, index) => index + 1));
  expect(others.map((document) => document.pages.map(({ page, height }: Json) => [page, height]))).toEqual(
    images.map((_, index) => [[1, 100 + index]]),
  );
  const { rows: twice } = await service.pool.query(
    `select upload_id, original, page from pages group by 1, 2, 3 having count(*) > 1 or min(status) <> 'completed'`,
  );
  expect(twice).toEqual([]);

  // Each failed attempt is a sandbox that was killed, at work or while it started; some were idle.
  const { rows: failed } = await service.pool.query(
    `select error->>'code' as code, error->>'message' as message from job_attempts where status = 'failed'`,
  );
  expect(failed.length).toBeGreaterThan(0);
  expect(failed.length).toBeLessThanOrEqual(kills);
  for (const { message } of failed) {
    expect(message).toMatch(/^sandbox (was killed externally|could not be started)$/);
  }
  await until(async () => (await service.leftovers()).jobs === 0);
  // A file that was complete on disk when its writer died is swept later.
  expect({ ...(await service.leftovers()), filesNotListed: [] }).toEqual(NOTHING_LEFT);
  expect(await service.audit()).toEqual([]);
});
