import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { sql } from 'drizzle-orm';
import pg from 'pg';
import { type Database, isReadOnly, openDatabase, openPool } from '../../db/client.ts';
import { connectionTo } from '../../db/connection.ts';
import { isOutage } from '../../db/postgres-errors.ts';
import { createLogger } from '../../runtime/log.ts';
import { cloneDatabase } from '../support/database.ts';
import { startWay } from '../support/tcp-proxy.ts';

describe('a pool of one connection', () => {
  let database: Awaited<ReturnType<typeof cloneDatabase>>;
  let way: Awaited<ReturnType<typeof openProxy>>;
  let opened: ReturnType<typeof openPool>;
  beforeAll(async () => {
    database = await cloneDatabase();
    way = await openProxy(database.url);
    const connection = connectionTo(way.url, { name: 'test', silentMs: 1_000 });
    opened = openPool({ ...connection, max: 1 }, () => undefined);
  });
  afterAll(async () => {
    await opened?.pool.end();
    await way?.close();
    await database?.drop();
  });

  const works = async (db: Database) => (await db.transaction((tx) => tx.execute(sql`select 1`))).rowCount === 1;

  /** A proxy to Postgres that can lose all traffic silently. */
  async function openProxy(url: string) {
    const { hostname, port } = new URL(url);
    const sockets = new Set<Socket>();
    const server = createServer((socket) => {
      const onward = connect(Number(port), hostname);
      for (const [from, into] of [
        [socket, onward],
        [onward, socket],
      ] as const) {
        sockets.add(from);
        from.on('error', () => undefined).pipe(into);
      }
    });
    await once(server.listen(0, '127.0.0.1'), 'listening');
    const here = (server.address() as AddressInfo).port;
    return {
      url: url.replace(`:${port}/`, `:${here}/`),
      lose(): void {
        for (const socket of sockets) socket.unpipe().resume();
      },
      async close(): Promise<void> {
        for (const socket of sockets) socket.destroy();
        await once(server.close(), 'close');
      },
    };
  }

  test('replaces a connection that breaks in a transaction', async () => {
    const broken = opened.db.transaction((tx) => tx.execute(sql`select pg_terminate_backend(pg_backend_pid())`));
    expect(isOutage(await broken.catch((error) => error))).toBe(true);
    expect(await works(opened.db)).toBe(true);
  });

  test('closes a connection to a silent host, at the first statement or within a transaction', async () => {
    way.lose();
    expect(isOutage(await works(opened.db).catch((error) => error))).toBe(true);
    expect(await works(opened.db)).toBe(true);
    const cutOff = opened.db.transaction(async (tx) => {
      way.lose();
      await tx.execute(sql`select 1`);
    });
    expect(isOutage(await cutOff.catch((error) => error))).toBe(true);
    expect(await works(opened.db)).toBe(true);
  });
});

test('a start with a wrong password fails without retries', async () => {
  const database = await cloneDatabase();
  const url = new URL(database.url);
  url.password = 'wrong';
  const log = createLogger('silent', {});
  const began = performance.now();
  try {
    await expect(openDatabase(url.href, { name: 'test', log })).rejects.toThrow('password authentication failed');
    expect(performance.now() - began).toBeLessThan(20_000);
  } finally {
    await database.drop();
  }
});

test.each([
  ['begins', 'begin'],
  ['is open', 'select 1 as statement'],
  ['is committed', 'commit'],
])(
  'a connection that breaks when a transaction %s fails it, and the pool replaces the connection',
  async (_when, words) => {
    const database = await cloneDatabase();
    const way = await startWay(database.url);
    way.open();
    const { db, close } = await openDatabase(way.url, { name: 'test', log: createLogger('silent', {}), max: 1 });
    try {
      for (let round = 0; round < 3; round++) {
        way.closeAt(words);
        const failed = db.transaction((tx) => tx.execute(sql`select 1 as statement`));
        expect(isOutage(await failed.catch((error) => error))).toBe(true);
        way.open();
        expect((await db.execute(sql`select 2 as answer`)).rows).toEqual([{ answer: 2 }]);
      }
      // A connection may also break between two statements.
      const broken = db.transaction(async (tx) => {
        await tx.execute(sql`select 1 as statement`);
        way.close();
        await delay(50);
        way.open();
        await tx.execute(sql`select 1`);
      });
      expect(isOutage(await broken.catch((error) => error))).toBe(true);
      expect((await db.execute(sql`select 2 as answer`)).rows).toEqual([{ answer: 2 }]);
    } finally {
      await close();
      await way.stop();
      await database.drop();
    }
  },
);

describe('a server that has become read-only', () => {
  let database: Awaited<ReturnType<typeof cloneDatabase>>;
  let admin: pg.Client;
  beforeEach(async () => {
    database = await cloneDatabase('template1');
    admin = new pg.Client({ connectionString: database.url });
    await admin.connect();
    await admin.query('create table notes (word text)');
  });
  afterEach(async () => {
    await admin.end();
    await database.drop();
  });

  /** Makes new connections read-only, or writable again. */
  const demote = async (readOnly: boolean) =>
    admin.query(
      `alter database ${new URL(database.url).pathname.slice(1)} set default_transaction_read_only = ${readOnly}`,
    );

  test.each([
    ['a statement', (db: Database) => db.execute(sql`insert into notes values ('a')`)],
    ['a transaction', (db: Database) => db.transaction((tx) => tx.execute(sql`insert into notes values ('a')`))],
  ])('fails %s with an outage, and the pool drops all connections to it', async (_what, write) => {
    await demote(true);
    const { db, pool, close } = await openDatabase(database.url, {
      name: 'test',
      log: createLogger('silent', {}),
      max: 5,
    });
    try {
      const release = Promise.withResolvers<void>();
      const used = db.transaction(async (tx) => {
        await tx.execute(sql`select 1`);
        await release.promise;
      });
      // Opens idle connections.
      await Promise.all([1, 2, 3].map(() => db.execute(sql`select pg_sleep(0.05)`)));
      expect(pool.totalCount).toBeGreaterThan(2);
      expect(await isReadOnly(db)).toBe(true);
      await demote(false);
      expect(isOutage(await write(db).then(String, (error: unknown) => error))).toBe(true);
      release.resolve();
      await used;
      for (let round = 0; round < 5; round++) await Promise.all(Array.from({ length: 5 }, () => write(db)));
      expect(await isReadOnly(db)).toBe(false);
    } finally {
      await close();
    }
  });
});
