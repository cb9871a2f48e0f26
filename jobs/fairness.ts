/**
 * Fairness between owners: each start costs its owner one turn, and the owner with the fewest turns is next (start-time
 * fair queueing). An owner that had nothing to start saves no turns up for later: it counts from the clock on.
 */
export interface Shares {
  /** The turns at which the last start began. */
  clock: number;
  /** The turns that each owner has taken; an owner without an entry has taken none. */
  turns: ReadonlyMap<string, number>;
}

export interface Turns {
  /** At which turn the owner's next start begins: lower is earlier. */
  next(owner: string): number;
  /** Counts a start. */
  take(owner: string): void;
}

export function countTurns({ clock, turns }: Shares): Turns {
  const taken = new Map(turns);
  let now = clock;
  const next = (owner: string) => Math.max(taken.get(owner) ?? 0, now);
  return {
    next,
    take(owner) {
      now = next(owner);
      taken.set(owner, now + 1);
    },
  };
}
