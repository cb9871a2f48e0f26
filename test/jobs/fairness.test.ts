import { COMPLETED, FAILED_PERMANENTLY, type JobsFixture, openJobsFixture, SMALL } from './fixture.ts';

/** More jobs than a claim reads. */
const FLOOD = 2_000;

let fixture: JobsFixture;
let converter: { id: string; name: string };
beforeAll(async () => {
  fixture = await openJobsFixture();
});
beforeEach(async () => {
  converter = await fixture.converter();
});
afterEach(() => fixture.expectSound());
afterAll(() => fixture.close());

/** Runs jobs one after another. Returns their owners in order. */
async function serve(count: number, onServed: (owner: string | null) => Promise<unknown> = async () => undefined) {
  const owners: (string | null)[] = [];
  for (let served = 0; served < count; served++) {
    const [job] = await fixture.claimOnce(converter, { capacity: SMALL });
    if (job === undefined) break;
    owners.push(job.owner);
    await fixture.settle(job, COMPLETED);
    await onServed(job.owner);
  }
  return owners;
}

/** Submits jobs of an owner, a thousand at a time. */
async function flood(owner: string | null, count: number): Promise<void> {
  for (let left = count; left > 0; left -= 1000) await fixture.submit(...Array(Math.min(left, 1000)).fill({ owner }));
}

const countOf = (owners: (string | null)[], owner: string) => owners.filter((one) => one === owner).length;

test('a single job starts second, even behind more jobs of another owner than a claim reads', async () => {
  await flood('A', FLOOD);
  await fixture.submit({ owner: 'B' });
  expect(await serve(2)).toContain('B');
  // Another single job is second, too, after fifty starts.
  expect(await serve(50)).toEqual(Array(50).fill('A'));
  await fixture.submit({ owner: 'B' });
  expect(await serve(2)).toContain('B');
  await fixture.submit({ owner: 'C' }, { owner: 'C' });
  await fixture.submit({ owner: 'B' });
  const owners = await serve(6);
  expect([countOf(owners, 'B'), countOf(owners, 'C')]).toEqual([1, 2]);
});

test('concurrent batches of two owners take turns', async () => {
  for (let batch = 0; batch < 4; batch++) {
    await fixture.submit(...Array(25).fill({ owner: 'A' }));
    await fixture.submit(...Array(5).fill({ owner: 'B' }));
  }
  const owners = await serve(120);
  expect(countOf(owners, 'A')).toBe(100);
  for (const turns of [10, 20, 40]) {
    expect(Math.abs(countOf(owners.slice(0, turns), 'B') - turns / 2)).toBeLessThanOrEqual(1);
  }
});

test('an owner gains nothing by sending many small batches', async () => {
  await flood('B', 100);
  for (let batch = 0; batch < 10; batch++) await flood('A', 10);
  const owners = await serve(60);
  expect(Math.abs(countOf(owners, 'A') - 30)).toBeLessThanOrEqual(1);
});

test('two owners with constant work do not starve a third', async () => {
  await flood('C', 100);
  for (const owner of ['A', 'B']) await fixture.submit({ owner });
  const owners = await serve(90, async (owner) => owner !== 'C' && fixture.submit({ owner }));
  for (const owner of ['A', 'B', 'C']) expect(countOf(owners, owner)).toBeGreaterThanOrEqual(25);
});

test('starts while no other owner waits do not reduce the later turns of an owner', async () => {
  await flood('A', 200);
  await serve(200);
  await flood('B', 50);
  await fixture.submit({ owner: 'A' });
  expect(await serve(3)).toContain('A');
});

test('owners take turns within one priority, and a higher priority starts first', async () => {
  await flood('A', 30);
  await fixture.submit({ owner: 'B', priority: 'high' }, { owner: 'B', priority: 'high' });
  await fixture.submit({ owner: 'B', priority: 'low' });
  await fixture.submit({ owner: 'A', priority: 'high' });
  const owners = await serve(3);
  expect(owners.toSorted()).toEqual(['A', 'B', 'B']);
  expect(await serve(31)).toEqual([...Array(30).fill('A'), 'B']);
});

test('without owners jobs run in the order of their arrival', async () => {
  const ids: string[] = [];
  for (let submitted = 0; submitted < 12; submitted++) ids.push(...(await fixture.submit({ owner: null })));
  expect((await fixture.claim(converter)).map(({ id }) => id)).toEqual(ids);
});

test('an owner gets no more turns than others when its newest jobs have ended already', async () => {
  for (const owner of ['B', 'C', 'D']) await flood(owner, 100);
  await fixture.submit({ id: 'bad', owner: 'A', priority: 'critical' });
  const [bad] = await fixture.claimOnce(converter, { capacity: SMALL });
  if (bad === undefined) throw new Error('nothing claimed');
  await fixture.settle(bad, FAILED_PERMANENTLY);
  for (let sent = 0; sent < 100; sent++) {
    await fixture.submit({ owner: 'A' });
    await fixture.submit({ owner: 'A', dependsOn: ['bad'] });
  }
  const owners = await serve(100);
  for (const owner of ['A', 'B', 'C', 'D']) expect(Math.abs(countOf(owners, owner) - 25)).toBeLessThanOrEqual(3);
});

test('priorities hold however many jobs an owner has', async () => {
  await flood('A', FLOOD);
  await fixture.submit({ owner: 'A', priority: 'low' }, { owner: 'B', priority: 'low' });
  await fixture.submit({ id: 'high', owner: 'A', priority: 'high' });
  const [first] = await fixture.claimOnce(converter, { capacity: SMALL });
  expect(first?.id).toBe('high');
});

test('a retried job takes its place among new jobs', async () => {
  await fixture.submit(...Array(5).fill({ owner: 'A', arrivedAt: new Date(Date.now() - 3 * 86_400_000) }));
  const old = await fixture.claim(converter);
  for (const job of old) await fixture.settle(job, FAILED_PERMANENTLY);
  await fixture.submit({ id: 'critical', owner: 'A', priority: 'critical' }, { id: 'normal', owner: 'A' });
  for (const { id } of old) await fixture.retry(id);
  const order = (await fixture.claim(converter)).map(({ id }) => id);
  expect(order.slice(0, 2)).toEqual(['critical', 'normal']);
});

test('a scheduled job does not delay the next job of its owner', async () => {
  await fixture.submit({ owner: 'A', runAt: new Date(Date.now() + 86_400_000) });
  await fixture.submit({ id: 'now', owner: 'A' });
  await flood('B', 20);
  expect(await serve(3)).toContain('A');
});
