import { createHash } from 'node:crypto';
import pg from 'pg';

/** Statements that a connection keeps prepared. Further ones are sent unprepared. */
const MAX_PREPARED = 500;
/** Statements that a connection has sent once and remembers. */
const MAX_SEEN = 500;
/** A longer statement is built from data and will not be repeated. */
const MAX_TEXT_LENGTH = 20_000;

/**
 * A connection that prepares a statement with parameters when it sends it for the second time. Postgres takes longer to
 * plan the short statements of jobs and pages than to run them, and a prepared one keeps its plan.
 */
export class PreparedClient extends pg.Client {
  readonly #seen = new Set<string>();
  /** The names of the prepared statements, by text. */
  readonly #names = new Map<string, string>();

  constructor(config?: string | pg.ClientConfig) {
    super(config);
    const { query } = this;
    const queryPrepared = (config: unknown, ...rest: unknown[]) =>
      Reflect.apply(query, this, [this.#prepare(config), ...rest]);
    // Assigned without types, since `query` has many overloads.
    Object.assign(this, { query: queryPrepared });
  }

  #prepare(config: unknown): unknown {
    if (!isUnnamed(config)) return config;
    const { text } = config;
    if (text.length > MAX_TEXT_LENGTH || !text.includes('$1')) return config;
    const name = this.#names.get(text) ?? this.#nameSecond(text);
    return name === undefined ? config : { ...config, name };
  }

  /** A name for a statement that was sent before; undefined for a new one. */
  #nameSecond(text: string): string | undefined {
    if (this.#seen.delete(text) && this.#names.size < MAX_PREPARED) {
      const name = createHash('sha1').update(text).digest('base64url');
      this.#names.set(text, name);
      return name;
    }
    this.#seen.add(text);
    const [oldest] = this.#seen;
    if (this.#seen.size > MAX_SEEN && oldest !== undefined) this.#seen.delete(oldest);
    return undefined;
  }
}

function isUnnamed(config: unknown): config is { text: string } {
  if (typeof config !== 'object' || config === null || !('text' in config)) return false;
  // A cursor or a stream sends itself.
  return typeof config.text === 'string' && !('submit' in config) && !('name' in config && config.name !== undefined);
}
