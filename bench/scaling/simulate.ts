import { MAX_HOPS, MAX_LISTENERS, MIN_DIRECTED } from '../../jobs/wake.ts';
import type { Random } from '../random.ts';

/** What larger numbers of converters would do, computed from what one was measured to do. Pure: the same in, the same out. */

/** What an upload takes of a CPU: its first job, then the parts into which that was split, all of which may run at once. */
export interface Work {
  firstSeconds: number;
  partSeconds: number[];
  pages: number;
}

/** What something asks of Postgres. */
export interface Cost {
  statements: number;
  /** Of CPU, in all of Postgres's processes. */
  seconds: number;
  /** Transactions that write, nearly all of which also notify. */
  commits: number;
}

export interface Costs {
  /** Of an upload: that it is accepted, and that it is converted, all of its jobs and pages. */
  accepting: Cost;
  converting: Cost;
  /** A converter's, in each second, whether it works or not. */
  idleSecond: Cost;
  /** A converter's that hears a wake-up that is not for it: it does not look. */
  wake: Cost;
}

export interface Postgres {
  /** CPU seconds that it may take in each second. */
  cores: number;
  /** Transactions that notify end one after the other, so that there is a rate. */
  commitsPerSecond: number;
}

export interface Prediction {
  /** What Postgres is asked in a second: all but waking, and waking. */
  postgres: Cost;
  waking: Cost;
  /** The uploads in a second that there can be at most. */
  possiblePerSecond: number;
  limit: 'converters' | 'Postgres: CPU' | 'Postgres: commits';
}

export function workSeconds({ firstSeconds, partSeconds }: Work): number {
  return firstSeconds + sum(partSeconds);
}

/** How many uploads like these so many CPU units can work on in a second. */
export function mostPerSecond(units: number, works: Work[]): number {
  return units / mean(works.map(workSeconds));
}

/**
 * So many uploads in a second on so many converters. The look of the converter that starts a job is part of what the job
 * costs. The others that listen hear the wake-up and each of its `passes`, from one full converter to the next.
 */
export function predict(
  { nodes, uploadsPerSecond, passes }: { nodes: number; uploadsPerSecond: number; passes: number },
  works: Work[],
  costs: Costs,
  { cores, commitsPerSecond }: Postgres,
): Prediction {
  const each = add(costs.accepting, costs.converting);
  // Jobs that become ready in one transaction are told of once: the first job, and its parts.
  const told = mean(works.map(({ partSeconds }) => (partSeconds.length > 0 ? 2 : 1)));
  const passing = { statements: passes, seconds: 0, commits: passes };
  const others = Math.min(nodes, MAX_LISTENERS) - 1;
  const wakingEach = times(add(times(costs.wake, (1 + passes) * others), passing), told);
  const idle = times(costs.idleSecond, nodes);
  const limits = {
    converters: uploadsPerSecond,
    'Postgres: CPU': Math.max(0, cores - idle.seconds) / (each.seconds + wakingEach.seconds),
    'Postgres: commits': Math.max(0, commitsPerSecond - idle.commits) / (each.commits + wakingEach.commits),
  };
  const possiblePerSecond = Math.min(...Object.values(limits));
  const [limit] = Object.entries(limits).find(([, rate]) => rate === possiblePerSecond) as [
    Prediction['limit'],
    number,
  ];
  return {
    postgres: add(times(each, uploadsPerSecond), idle),
    waking: times(wakingEach, uploadsPerSecond),
    possiblePerSecond,
    limit,
  };
}

export interface Queueing {
  /** Of each job, from when it could start until it did, without those of the first tenth of the uploads. */
  waits: number[];
  /** How often a wake-up is passed on before it reaches a node with a unit free, or ends, on average. */
  passes: number;
  jobs: number;
  /** CPU seconds worked, and the time of the last end. */
  busySeconds: number;
  endedAt: number;
}

/**
 * Uploads that know nothing of each other arrive at nodes of so many CPU units; the jobs that can start do so in the order in which
 * they became ready. Each upload is one of `works`, all as likely.
 */
export function simulateQueue({
  works,
  nodes,
  unitsPerNode,
  uploadsPerSecond,
  uploads,
  random,
}: {
  works: Work[];
  nodes: number;
  unitsPerNode: number;
  uploadsPerSecond: number;
  uploads: number;
  random: Random;
}): Queueing {
  const freeAt = new Float64Array(nodes * unitsPerNode);
  /** Parts that become ready when their first job ends, soonest first. */
  const parts: { at: number; seconds: number[] }[] = [];
  const result: Queueing = { waits: [], passes: 0, jobs: 0, busySeconds: 0, endedAt: 0 };
  let counted = false;
  let told = 0;

  /** On the unit that is free first. Gives when it ends. */
  function run(readyAt: number, seconds: number): number {
    let unit = 0;
    for (let other = 1; other < freeAt.length; other++) {
      if ((freeAt[other] as number) < (freeAt[unit] as number)) unit = other;
    }
    const startedAt = Math.max(readyAt, freeAt[unit] as number);
    const endedAt = startedAt + seconds;
    freeAt[unit] = endedAt;
    result.jobs++;
    result.busySeconds += seconds;
    result.endedAt = Math.max(result.endedAt, endedAt);
    if (counted) result.waits.push(startedAt - readyAt);
    return endedAt;
  }

  function tell(now: number): void {
    let withRoom = 0;
    let last = -1;
    for (let unit = 0; unit < freeAt.length; unit++) {
      const node = Math.floor(unit / unitsPerNode);
      if (node === last || (freeAt[unit] as number) > now) continue;
      last = node;
      withRoom++;
    }
    told++;
    // It begins at any node that listens: so many full ones stand before the first with room, on average.
    const listeners = Math.min(nodes, MAX_LISTENERS);
    const open = (withRoom * listeners) / nodes;
    const full = (listeners - open) / (open + 1);
    const passes = nodes < MIN_DIRECTED ? 0 : Math.min(MAX_HOPS, listeners - 1, full);
    result.passes += (passes - result.passes) / told;
  }

  function runPartsUntil(now: number): void {
    for (let next = parts[0]; next !== undefined && next.at <= now; next = parts[0]) {
      parts.shift();
      tell(next.at);
      for (const seconds of next.seconds) run(next.at, seconds);
    }
  }

  let now = 0;
  for (let arrived = 0; arrived < uploads; arrived++) {
    now += random.space() / uploadsPerSecond;
    runPartsUntil(now);
    // It begins empty, which says nothing about a service that has run for long.
    counted = arrived >= uploads / 10;
    const { firstSeconds, partSeconds } = random.pick(works);
    tell(now);
    const at = run(now, firstSeconds);
    const later = parts.findLastIndex((other) => other.at <= at) + 1;
    if (partSeconds.length > 0) parts.splice(later, 0, { at, seconds: partSeconds });
  }
  runPartsUntil(Number.POSITIVE_INFINITY);
  return result;
}

export function mean(values: number[]): number {
  return sum(values) / values.length;
}

function sum(values: number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

export function times({ statements, seconds, commits }: Cost, factor: number): Cost {
  return { statements: statements * factor, seconds: seconds * factor, commits: commits * factor };
}

export function add(...costs: Cost[]): Cost {
  const total = (key: keyof Cost) => sum(costs.map((cost) => cost[key]));
  return { statements: total('statements'), seconds: total('seconds'), commits: total('commits') };
}
