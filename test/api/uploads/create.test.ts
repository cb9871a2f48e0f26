import { randomUUIDv7 } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { asc, eq } from 'drizzle-orm';
import type pg from 'pg';
import type { Idempotency } from '../../../api/http/request-state.ts';
import { createUploads } from '../../../api/uploads/create.ts';
import { uploadFields } from '../../../api/uploads/requests.ts';
import { type Database, openDatabase } from '../../../db/client.ts';
import { type Answer, takeKey } from '../../../db/idempotency.ts';
import { jobs, uploads } from '../../../db/schema.ts';
import { openDiskStore } from '../../../store/disk.ts';
import { originalPath } from '../../../store/paths.ts';
import type { Store } from '../../../store/store.ts';
import { type JobsFixture, openJobsFixture } from '../../jobs/fixture.ts';
import { startWay } from '../../support/tcp-proxy.ts';

let fixture: JobsFixture;
let folder: string;
let store: Store;
const statements: string[] = [];
beforeAll(async () => {
  fixture = await openJobsFixture();
  folder = await mkdtemp(path.join(tmpdir(), 'sheetmill-uploads-'));
  store = await openDiskStore(folder);
  recordStatements(fixture.db);
});
beforeEach(() => statements.splice(0));
afterEach(() => fixture.expectSound());
afterAll(async () => {
  await fixture.close();
  await rm(folder, { recursive: true });
});

/** Records each statement that this pool sends. */
function recordStatements({ $client: pool }: Database): void {
  const recorded = new WeakSet<pg.PoolClient>();
  pool.on('acquire', (client) => {
    if (recorded.has(client)) return;
    recorded.add(client);
    const send: (...sent: unknown[]) => unknown = client.query.bind(client);
    const query = (...sent: unknown[]) => {
      const [statement] = sent;
      statements.push(typeof statement === 'string' ? statement : String(Object(statement).text));
      return send(...sent);
    };
    Object.assign(client, { query });
  });
}

const KEYLESS: Idempotency = { known: () => undefined, key: undefined, isAnswerKept: false };

/** An upload that was received. A NUL in the name of its file is more than Postgres can store. */
async function received(filename = 'a.png', idempotency = KEYLESS) {
  const id = randomUUIDv7();
  async function* bytes() {
    yield Buffer.from('a file');
  }
  const file = await store.receive(bytes(), () => originalPath(id, 1, 'image/png'));
  return {
    owner: null,
    traceparent: null,
    fields: uploadFields.parse({}),
    received: { id, files: [{ original: 1, filename, mediaType: 'image/png' as const, received: file }] },
    idempotency,
    fingerprint: filename,
  };
}

const many = (count: number) => Promise.all(Array.from({ length: count }, (_, index) => received(`${index}.png`)));

async function keyed(key: string): Promise<Idempotency> {
  expect(await takeKey(fixture.db, '', key)).toBe('new');
  return { known: () => undefined, isAnswerKept: false, key: { owner: '', key } };
}

async function storedUploads(): Promise<string[]> {
  return (await fixture.db.select({ id: uploads.id }).from(uploads).orderBy(asc(uploads.id))).map(({ id }) => id);
}

async function storedFiles(): Promise<string[]> {
  const found: string[] = [];
  for await (const file of store.files('uploads')) found.push(file);
  return found;
}

async function removeFiles(): Promise<void> {
  await store.removeFolder('uploads');
}

test('an upload takes at most 6 statements, and 20 concurrent uploads share them', async () => {
  const create = createUploads({ ...fixture, store });
  const one = await received();
  await create(one);
  expect(statements.length).toBeLessThanOrEqual(6);
  statements.splice(0);
  const group = await many(20);
  await Promise.all(group.map(create));
  expect(statements.length).toBeLessThanOrEqual(7);
  expect(await storedUploads()).toEqual([one, ...group].map(({ received: { id } }) => id).sort());
  await removeFiles();
});

test('each client gets the answer to its upload, and jobs start in the order of their uploads', async () => {
  const create = createUploads({ ...fixture, store });
  const group = await many(50);
  const answers = await Promise.all(group.map(create));
  expect(answers.map(({ location }) => location)).toEqual(group.map(({ received: { id } }) => `/uploads/${id}`));
  const names = answers.map(({ body }) => (body as { originals: { filename: string }[] }).originals[0]?.filename);
  expect(names).toEqual(group.map((_, index) => `${index}.png`));
  const queued = await fixture.db.select({ id: jobs.uploadId }).from(jobs).orderBy(asc(jobs.arrivedAt));
  expect(queued.map(({ id }) => id)).toEqual(group.map(({ received: { id } }) => id));
  await removeFiles();
});

test('an upload that cannot be stored fails alone and leaves no file', async () => {
  const create = createUploads({ ...fixture, store });
  const lost = await keyed('lost');
  const answer: Answer = { status: 200, location: null, body: {} };
  // Another request took the key over and has answered.
  await fixture.db.execute(`update idempotency_keys set fingerprint = 'other', answer = '${JSON.stringify(answer)}'`);
  const kept = await received('kept.png', await keyed('kept'));
  const group = [await received(), await received('\0'), kept, await received('late.png', lost), await received()];
  const results = await Promise.allSettled(group.map(create));
  expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled', 'rejected', 'fulfilled']);
  expect(results[3]).toMatchObject({ reason: { code: 'conflict' } });
  const good = [0, 2, 4].flatMap((index) => group[index]?.received.id ?? []).sort();
  expect(await storedUploads()).toEqual(good);
  expect((await storedFiles()).sort()).toEqual(good.map((id) => originalPath(id, 1, 'image/png')));
  expect(await takeKey(fixture.db, '', 'kept')).toMatchObject({
    fingerprint: 'kept.png',
    answer: { location: `/uploads/${kept.received.id}` },
  });
  await removeFiles();
});

describe('an outage', () => {
  let way: Awaited<ReturnType<typeof startWay>>;
  let database: Awaited<ReturnType<typeof openDatabase>>;
  beforeAll(async () => {
    way = await startWay(fixture.url);
    way.open();
    database = await openDatabase(way.url, { name: 'test', log: fixture.log });
  });
  afterEach(removeFiles);
  afterAll(async () => {
    await database.close();
    await way.stop();
  });

  const statusesOf = (results: PromiseSettledResult<unknown>[]) => [...new Set(results.map(({ status }) => status))];

  test('between the commit of a group and its answer fails the uploads and keeps all files', async () => {
    const create = createUploads({ db: database.db, queues: fixture.queues, store });
    const group = await many(10);
    const lost = way.loseAnswer('commit', 'insert into "uploads"');
    const results = await Promise.allSettled(group.map(create));
    await lost;
    expect(statusesOf(results)).toEqual(['rejected']);
    expect(await storedUploads()).toEqual(group.map(({ received: { id } }) => id).sort());
    expect(await storedFiles()).toHaveLength(10);
    const later = await received();
    await create(later);
    expect(await fixture.db.$count(uploads, eq(uploads.id, later.received.id))).toBe(1);
  });

  test('before the commit of a group fails the uploads and leaves neither rows nor files', async () => {
    const create = createUploads({ db: database.db, queues: fixture.queues, store });
    const group = await many(10);
    const lost = way.loseAnswer('insert into "jobs"', 'insert into "uploads"');
    const results = await Promise.allSettled(group.map(create));
    await lost;
    expect(statusesOf(results)).toEqual(['rejected']);
    expect(await storedUploads()).toEqual([]);
    expect(await storedFiles()).toEqual([]);
  });
});
