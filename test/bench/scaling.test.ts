import { createRandom } from '../../bench/random.ts';
import { type Costs, mean, mostPerSecond, predict, simulateQueue, type Work } from '../../bench/scaling/simulate.ts';

const LOAD = 0.7;

const alone = (firstSeconds: number): Work => ({ firstSeconds, partSeconds: [], pages: 1 });
/** A thousand values that are distributed exponentially around 1. */
const exponential = Array.from({ length: 1_000 }, (_, index) => alone(-Math.log(1 - (index + 0.5) / 1_000)));

function simulate(nodes: number, unitsPerNode: number, works: Work[], uploads = 50_000) {
  const uploadsPerSecond = LOAD * mostPerSecond(nodes * unitsPerNode, works);
  return simulateQueue({ works, nodes, unitsPerNode, uploadsPerSecond, uploads, random: createRandom(1) });
}

/** Erlang's C: the share of arrivals that find all units busy. */
function shareThatWaits(units: number, load: number): number {
  let blocked = 1;
  for (let busy = 1; busy <= units; busy++) blocked = (load * units * blocked) / (busy + load * units * blocked);
  return blocked / (1 - load * (1 - blocked));
}

/** Within a twentieth. */
function expectNear(actual: number, expected: number): void {
  expect({ actual, share: Math.abs(actual / expected - 1) }).toEqual({ actual, share: expect.closeTo(0, 1) });
}

test('queue times are those that theory knows: M/M/1, M/D/1, and M/M/c', () => {
  expectNear(mean(simulate(1, 1, exponential, 200_000).waits), LOAD / (1 - LOAD));
  expectNear(mean(simulate(1, 1, [alone(1)]).waits), LOAD / (2 * (1 - LOAD)));
  const eight = simulate(4, 2, exponential, 200_000).waits;
  expectNear(mean(eight), shareThatWaits(8, LOAD) / (8 * (1 - LOAD)));
  expectNear(eight.filter((wait) => wait > 0).length / eight.length, shareThatWaits(8, LOAD));
});

test('wake-ups are passed on as often as full nodes stand before one with room', () => {
  const NODES = 8;
  // M/M/8: how likely it is that so many units are busy.
  const shares = Array.from({ length: NODES }, (_, busy) => (LOAD * NODES) ** busy / factorial(busy));
  const full = (LOAD * NODES) ** NODES / factorial(NODES) / (1 - LOAD);
  const total = shares.reduce((sum, share) => sum + share, full);
  const passes = shares.reduce((sum, share, busy) => sum + (share * busy) / (NODES - busy + 1), full * (NODES - 1));
  expectNear(simulate(NODES, 1, exponential, 200_000).passes, passes / total);
  expect(simulate(3, 1, exponential, 1_000).passes).toBe(0);
});

function factorial(n: number): number {
  return n <= 1 ? 1 : n * factorial(n - 1);
}

test('all that arrives is worked on, once, and no unit does two things at a time', () => {
  const { jobs, busySeconds, endedAt, waits } = simulateQueue({
    works: [{ firstSeconds: 0.1, partSeconds: [1, 2, 3], pages: 24 }],
    nodes: 2,
    unitsPerNode: 2,
    uploadsPerSecond: 0.5,
    uploads: 1_000,
    random: createRandom(3),
  });
  expect(jobs).toBe(4_000);
  expect(busySeconds).toBeCloseTo(6_100, 6);
  expect(endedAt * 4).toBeGreaterThan(busySeconds);
  expect(Math.min(...waits)).toBeGreaterThanOrEqual(0);
});

test('parts wait for their first job, and for the units that they do not find free', () => {
  const works = [{ firstSeconds: 1, partSeconds: [1, 1, 1], pages: 3 }];
  // Uploads so far apart that only the parts of one meet: with two units, the third waits for a second.
  const { waits } = simulateQueue({
    works,
    nodes: 1,
    unitsPerNode: 2,
    uploadsPerSecond: 1e-6,
    uploads: 10,
    random: createRandom(1),
  });
  expect([...new Set(waits.map((wait) => wait.toFixed(3)))].sort()).toEqual(['0.000', '1.000']);
  expect(waits.filter((wait) => wait > 0.5)).toHaveLength(9);
});

test('the same seed gives the same queue', () => {
  const [one, other] = [simulate(4, 2, exponential, 5_000), simulate(4, 2, exponential, 5_000)];
  expect(mean(one.waits)).toBeGreaterThan(0);
  expect(mean(other.waits)).toBe(mean(one.waits));
});

describe('a prediction', () => {
  const cost = (statements: number, seconds: number, commits = 1) => ({ statements, seconds, commits });
  const nothing = cost(0, 0, 0);
  const costs: Costs = {
    accepting: cost(10, 0.01),
    converting: cost(110, 0.07, 13),
    idleSecond: nothing,
    wake: nothing,
  };
  // Two seconds of work in three jobs.
  const works = [{ firstSeconds: 0.4, partSeconds: [0.8, 0.8], pages: 10 }];
  const postgres = { cores: 8, commitsPerSecond: 1e9 };

  test('grows with the nodes until Postgres has no CPU left', () => {
    expect(predict({ nodes: 10, uploadsPerSecond: 10, passes: 0 }, works, costs, postgres)).toEqual({
      postgres: { statements: 1200, seconds: expect.closeTo(0.8), commits: 140 },
      waking: nothing,
      possiblePerSecond: 10,
      limit: 'converters',
    });
    expect(predict({ nodes: 200, uploadsPerSecond: 200, passes: 0 }, works, costs, postgres)).toMatchObject({
      possiblePerSecond: expect.closeTo(100),
      limit: 'Postgres: CPU',
    });
  });

  test('ends at the commits that Postgres can make', () => {
    const slow = { cores: 800, commitsPerSecond: 700 };
    expect(predict({ nodes: 200, uploadsPerSecond: 200, passes: 0 }, works, costs, slow)).toMatchObject({
      possiblePerSecond: 50,
      limit: 'Postgres: commits',
    });
  });

  test('counts what idle converters ask, and wake-ups that others hear, passed on or not', () => {
    const talkative = { ...costs, idleSecond: cost(7, 0.001, 0), wake: cost(2, 0.0001, 0) };
    const asked = predict({ nodes: 101, uploadsPerSecond: 50, passes: 0.5 }, works, talkative, postgres);
    expect(asked.postgres.statements).toBeCloseTo(50 * 120 + 101 * 7, 6);
    // Each upload notifies twice, and each time makes 7 others look 1.5 times; each pass is a statement that commits.
    expect(asked.waking.statements).toBeCloseTo(50 * 2 * (1.5 * 7 * 2 + 0.5), 6);
    expect(asked.waking.commits).toBeCloseTo(50 * 2 * 0.5, 6);
  });
});
