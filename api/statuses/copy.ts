/** What is known of an upload or a job: its answer, and what decides who may have it. */
export interface Known {
  /** Counts the changes of the row: of two copies the higher is the newer. */
  version: number;
  owner: string | null;
  done: boolean;
  /** The answer to a client, without what changes by itself. */
  body: Record<string, unknown>;
}

/** What a look gives when nothing is known: who then reads from Postgres brings it back with what was read. */
export interface Hole {
  hole: string;
}

/**
 * Where statuses are kept between reads, for a minute at most. It takes what was read from Postgres only if nothing has
 * been dropped since the look that came before that read, so that nothing old gets in behind something newer.
 */
export interface Copy {
  /** Tells copies apart among all API processes; those that share one have the same number, an int4. */
  id: number;
  look(key: string): Promise<Known | Hole>;
  /** Keeps what was read since the look that gave `hole`, or makes sure that nothing older stays; undefined: it is gone. */
  put(key: string, known: Known | undefined, hole: string | undefined): Promise<void>;
  drop(keys: string[]): Promise<void>;
  clear(): Promise<void>;
}

export const KEPT_MS = 60_000;
