export type Random = ReturnType<typeof createRandom>;

/** Random numbers that depend only on the seed (mulberry32), so that every run and both systems get the same. */
export function createRandom(seed: number) {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return {
    /** From 0 to below 1. */
    next,
    between: (low: number, high: number): number => low + next() * (high - low),
    wholeNumber: (low: number, high: number): number => low + Math.floor(next() * (high - low + 1)),
    pick: <T>(from: readonly T[]): T => from[Math.floor(next() * from.length)] as T,
    /** The interval between two independent arrivals, 1 on average. */
    space: (): number => -Math.log(1 - next()),
  };
}
