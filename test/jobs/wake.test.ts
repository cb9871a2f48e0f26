import fc from 'fast-check';
import { formatWakeUp, isFor, MAX_HOPS, parseWakeUp, passOn, type WakeUp } from '../../jobs/wake.ts';

const ids = (count: number) => Array.from({ length: count }, (_, index) => String(index).padStart(4, '0'));
const converters = fc.integer({ min: 1, max: 60 }).map(ids);
const fresh = fc.record({
  token: fc.nat(),
  count: fc.integer({ min: 1, max: 100 }),
  shape: fc.record({ cpuUnits: fc.nat(8), memoryMb: fc.nat(16_384) }),
});

/** The converters that a wake-up selects. */
const reached = (wakeUp: WakeUp, list: string[]) => list.filter((id) => isFor(wakeUp, list, id));

/** The converters that a wake-up reaches when each passes it on. */
function reachedByPassing(wakeUp: WakeUp, list: string[]): string[] {
  const all: string[] = [];
  for (const left = [wakeUp]; ; ) {
    const next = left.pop();
    if (next === undefined) return all;
    const here = reached(next, list);
    all.push(...here);
    left.push(...here.flatMap((id) => passOn(next, list, id) ?? []));
  }
}

test('a wake-up reaches as many converters as it has jobs, or all', () => {
  fc.assert(
    fc.property(fresh, converters, (wakeUp, list) => {
      const expected = list.length <= 3 ? list.length : Math.min(wakeUp.count, list.length);
      expect(reached(wakeUp, list)).toHaveLength(expected);
    }),
  );
});

test('a wake-up that all converters pass on reaches each at most once, and ends', () => {
  fc.assert(
    fc.property(fresh, converters, (wakeUp, list) => {
      const all = reachedByPassing(wakeUp, list);
      expect(new Set(all).size).toBe(all.length);
      const first = reached(wakeUp, list).length;
      expect(all).toHaveLength(Math.min(list.length, first * (1 + MAX_HOPS)));
    }),
  );
});

test('converters take turns: each gets one of consecutive tokens', () => {
  fc.assert(
    fc.property(fresh, fc.integer({ min: 4, max: 60 }).map(ids), (wakeUp, list) => {
      const turns = list.flatMap((_, index) => reached({ ...wakeUp, count: 1, token: wakeUp.token + index }, list));
      expect(turns.sort()).toEqual(list);
    }),
  );
});

test('while a list lacks new converters, each wake-up reaches a converter, and the new ones get all', () => {
  fc.assert(
    fc.property(fresh, converters, fc.integer({ min: 1, max: 5 }), (wakeUp, list, more) => {
      const added = ids(list.length + more);
      expect(reached(wakeUp, list).length).toBeGreaterThan(0);
      for (const id of added.slice(list.length)) expect(isFor(wakeUp, list, id)).toBe(true);
      expect(isFor(wakeUp, [], 'any')).toBe(true);
      expect(passOn(wakeUp, list, 'absent')).toBeUndefined();
    }),
  );
});

test('a wake-up is parsed as it was formatted, and any other payload is unknown', () => {
  fc.assert(
    fc.property(fresh, fc.option(fc.nat(MAX_HOPS)), (wakeUp, hops) => {
      const written = hops === null ? wakeUp : { ...wakeUp, hops };
      expect(parseWakeUp(formatWakeUp(written))).toEqual(written);
    }),
  );
  for (const payload of ['', '1', '1 1', 'a b c d', '1 0 1 256', '1 1 1 256 2 3', '-1 1 1 256', '1 1 1 256 x']) {
    expect([payload, parseWakeUp(payload)]).toEqual([payload, undefined]);
  }
});
