/** The cost of something for Postgres. */
export interface Cost {
  statements: number;
  /** CPU of all processes of Postgres. */
  seconds: number;
  /** Transactions that write; nearly all of them also notify. */
  commits: number;
}

export function scaleCost({ statements, seconds, commits }: Cost, factor: number): Cost {
  return { statements: statements * factor, seconds: seconds * factor, commits: commits * factor };
}

export function subtractCosts(from: Cost, ...costs: Cost[]): Cost {
  const left = (key: keyof Cost) => costs.reduce((rest, cost) => rest - cost[key], from[key]);
  return { statements: left('statements'), seconds: left('seconds'), commits: left('commits') };
}
