import { eq, sql } from 'drizzle-orm';
import { Heartbeat } from '../../converter/heartbeat.ts';
import { openDatabase } from '../../db/client.ts';
import { converters } from '../../db/schema.ts';
import { type JobsFixture, openJobsFixture } from '../jobs/fixture.ts';
import { until } from '../support/service.ts';
import { startWay } from '../support/tcp-proxy.ts';

let fixture: JobsFixture;
beforeAll(async () => {
  fixture = await openJobsFixture();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

const failOnLost = () => {
  throw new Error('declared lost');
};

const ignore = () => undefined;

/** Makes the converter's heartbeat old; resolves when it is fresh again. */
async function beats(id: string): Promise<void> {
  await fixture.db.update(converters).set({ heartbeatAt: sql`now() - interval '1 hour'` }).where(eq(converters.id, id));
  await until(async () => {
    const [row] = await fixture.db.select().from(converters).where(eq(converters.id, id));
    return row !== undefined && row.heartbeatAt.getTime() > Date.now() - 60_000;
  }, 10_000);
}

test('heartbeats continue while all connections of the pool wait for a lock', async () => {
  const pool = await openDatabase(fixture.url, { name: 'test', log: fixture.log, max: 3 });
  const { id } = await fixture.converter();
  await fixture.submit({});
  const heartbeat = new Heartbeat(fixture.url, id, { log: fixture.log, onLost: failOnLost, onPeers: ignore });
  const release = Promise.withResolvers<void>();
  const held = Promise.withResolvers<void>();
  const migration = fixture.db.transaction(async (tx) => {
    await tx.execute(sql`lock table jobs in share mode`);
    held.resolve();
    await release.promise;
  });
  await held.promise;
  const writes = Array.from({ length: 5 }, () => pool.pool.query('update jobs set progress = null'));
  await until(async () => pool.pool.waitingCount === 2);
  await beats(id);
  await beats(id);
  release.resolve();
  await Promise.all([migration, ...writes]);
  await heartbeat.close();
  await pool.close();
});

test('heartbeats continue soon after an outage, and `refresh` sends one at once', async () => {
  const way = await startWay(fixture.url);
  way.open();
  const { id } = await fixture.converter();
  const heartbeat = new Heartbeat(way.url, id, { log: fixture.log, onLost: failOnLost, onPeers: ignore });
  await beats(id);
  // A busy machine may need a second try.
  await until(async () => {
    way.close();
    await until(async () => way.refused() > 1);
    way.open();
    const began = performance.now();
    await beats(id);
    return performance.now() - began < 2_500;
  }, 40_000);
  await heartbeat.refresh();
  await heartbeat.close();
  await way.stop();
});

test('a converter that was declared lost is notified', async () => {
  const { id } = await fixture.converter();
  await fixture.db.update(converters).set({ status: 'lost' }).where(eq(converters.id, id));
  const lost = Promise.withResolvers<void>();
  const heartbeat = new Heartbeat(fixture.url, id, { log: fixture.log, onLost: lost.resolve, onPeers: ignore });
  await lost.promise;
  await heartbeat.close();
});

test('each heartbeat lists the live converters with recent heartbeats, in order', async () => {
  const { id } = await fixture.converter(3_600);
  const other = await fixture.converter();
  await fixture.converter(11);
  const stopped = await fixture.converter();
  await fixture.db.update(converters).set({ status: 'stopped' }).where(eq(converters.id, stopped.id));
  const peers = Promise.withResolvers<string[]>();
  const heartbeat = new Heartbeat(fixture.url, id, { log: fixture.log, onLost: failOnLost, onPeers: peers.resolve });
  expect(await peers.promise).toEqual([id, other.id].sort());
  await heartbeat.close();
});
