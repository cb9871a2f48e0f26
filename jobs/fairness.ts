/**
 * Fairness between owners (start-time fair queueing): each start costs its owner one turn, and the owner with the fewest
 * turns is next. An idle owner does not save turns: it counts from the clock on.
 */
export interface Shares {
  /** The turns at which the last start began. */
  clock: number;
  /** The turns of each owner; 0 without an entry. */
  turns: ReadonlyMap<string, number>;
}

export interface Turns {
  /** The turn of the owner's next start; the lowest is next. */
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
