import { createHash } from 'node:crypto';
import pg from 'pg';

/** Statements that a connection keeps prepared. Later ones are sent as they are. */
const MAX_PREPARED = 500;
/** Texts that a connection remembers to have sent once. */
const MAX_SEEN = 500;
/** A longer text is built from data, and will not come again. */
const MAX_TEXT_LENGTH = 20_000;

/**
 * A connection that prepares each statement with parameters when it sends it for the second time. Postgres plans the short
 * statements of jobs and pages for longer than it runs them; a prepared one keeps its plan.
 */
export class PreparedClient extends pg.Client {
  readonly #seen = new Set<string>();
  /** Names of prepared statements by their text. */
  readonly #names = new Map<string, string>();

  constructor(config?: string | pg.ClientConfig) {
    super(config);
    const send = this.query.bind(this) as (config: unknown, ...rest: unknown[]) => unknown;
    this.query = ((config: unknown, ...rest: unknown[]) => send(this.#prepare(config), ...rest)) as pg.Client['query'];
  }

  #prepare(config: unknown): unknown {
    if (!isUnnamed(config)) return config;
    const { text } = config;
    if (text.length > MAX_TEXT_LENGTH || !text.includes('$1')) return config;
    const name = this.#names.get(text) ?? this.#nameSecond(text);
    return name === undefined ? config : { ...config, name };
  }

  /** A name for a text that was sent before; undefined for one that is new. */
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
  // A cursor or a stream has its own way of sending.
  return typeof config.text === 'string' && !('submit' in config) && !('name' in config && config.name !== undefined);
}
