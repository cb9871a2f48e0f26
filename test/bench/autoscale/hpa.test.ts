import { readFile } from 'node:fs/promises';
import { parse } from 'yaml';
import { type Autoscaler, createAutoscaler, type Rules, SYNC_SECONDS } from '../../../bench/autoscale/hpa.ts';

const manifest = new URL('../../../deploy/base/autoscaler.yaml', import.meta.url);
const { minReplicas, maxReplicas, behavior } = parse(await readFile(manifest, 'utf8')).spec;
const ours: Autoscaler = { minReplicas, maxReplicas, targetPercent: 50, ...behavior };

/** The replicas after each round, in which all pods have the given CPU. */
function rounds(rules: Autoscaler, from: number, percents: number[]): number[] {
  const { decide } = createAutoscaler(rules);
  let replicas = from;
  return percents.map((percent, round) => {
    replicas = decide(round * SYNC_SECONDS, replicas, Array(replicas).fill(percent));
    return replicas;
  });
}

/** So many rounds of the same CPU. */
const steady = (seconds: number, percent: number): number[] => Array(seconds / SYNC_SECONDS).fill(percent);

test('a burst adds two pods or doubles them, whichever is more, up to the maximum', () => {
  expect(rounds(ours, 1, [100, 100, 100])).toEqual([2, 4, 5]);
  expect(rounds({ ...ours, maxReplicas: 40 }, 1, [400, 400, 400, 400])).toEqual([3, 6, 12, 24]);
});

test('within a tenth of the target nothing changes', () => {
  expect(rounds(ours, 2, [54, 46])).toEqual([2, 2]);
  expect(rounds(ours, 2, [56])).toEqual([3]);
});

test('recommendations of the last five minutes delay scaling down, then one pod a minute is removed', () => {
  const replicas = rounds(ours, 4, [60, ...steady(600, 0)]);
  const changes = replicas.flatMap((now, round) => (now === replicas[round - 1] ? [] : [[round * SYNC_SECONDS, now]]));
  expect(changes).toEqual([
    [0, 5],
    [300, 4],
    [360, 3],
    [420, 2],
    [480, 1],
  ]);
});

test('a new autoscaler does not scale down within its window', () => {
  const replicas = rounds(ours, 5, steady(315, 0));
  expect(replicas.slice(0, -1)).toEqual(Array(20).fill(5));
  expect(replicas.at(-1)).toBe(4);
});

test('a window for scaling up uses its lowest recommendation', () => {
  const careful = { ...ours, scaleUp: { ...ours.scaleUp, stabilizationWindowSeconds: 30 } };
  expect(rounds(careful, 2, [100, 100, 100])).toEqual([2, 2, 4]);
});

test('selectPolicy Min uses the smallest change, Disabled none', () => {
  const policies: Rules['policies'] = [
    { type: 'Percent', value: 100, periodSeconds: 15 },
    { type: 'Pods', value: 1, periodSeconds: 15 },
  ];
  const rules = (selectPolicy: 'Min' | 'Disabled'): Autoscaler => ({
    ...ours,
    maxReplicas: 20,
    scaleUp: { stabilizationWindowSeconds: 0, selectPolicy, policies },
    scaleDown: { stabilizationWindowSeconds: 0, selectPolicy, policies },
  });
  expect(rounds(rules('Min'), 4, [400, 400, 0, 0])).toEqual([5, 6, 5, 4]);
  expect(rounds(rules('Disabled'), 4, [400, 400, 0, 0])).toEqual([4, 4, 4, 4]);
});

test('a policy counts over its whole period', () => {
  const minute = { type: 'Percent', value: 50, periodSeconds: 60 } as const;
  const slow = { ...ours, maxReplicas: 20, scaleUp: { ...ours.scaleUp, policies: [minute] } };
  expect(rounds(slow, 4, [...steady(60, 400), 400])).toEqual([6, 6, 6, 6, 9]);
});

test('pods that are not ready do not count, except as idle when the ratio rises', () => {
  const atOnce = { ...ours.scaleDown, stabilizationWindowSeconds: 0 };
  const decide = (current: number, percents: number[]) =>
    createAutoscaler({ ...ours, maxReplicas: 20, minReplicas: 0, scaleDown: atOnce }).decide(0, current, percents);
  // The ready one of three has work for four pods, or for two: too little for those that are about to come.
  expect(decide(3, [200])).toBe(4);
  expect(decide(3, [100])).toBe(3);
  expect(decide(2, [25])).toBe(1);
  expect(decide(3, [])).toBe(3);
});

test('the bounds limit every recommendation', () => {
  expect(rounds({ ...ours, minReplicas: 3 }, 1, [50])).toEqual([3]);
  expect(rounds(ours, 9, [400])).toEqual([5]);
});
