import { setImmediate as yieldToRequests } from 'node:timers/promises';
import type { Database } from '../../db/client.ts';
import {
  CHANGES_CHANNEL,
  currentCursor,
  cursorAt,
  EVENTS_CHANNEL,
  type Event,
  type EventCursor,
  type EventFilter,
  type JobProgress,
  PROGRESS_CHANNEL,
  readEvents,
  readProgress,
} from '../../db/events.ts';
import { type Listener, listen } from '../../db/listen.ts';
import type { Logger } from '../../runtime/log.ts';
import { WakeFlag } from '../../runtime/wake-flag.ts';
import { type Changes, readChanges } from './changes.ts';
import { eventDocument, type StreamEvent } from './documents.ts';
import { type Client, Follower, type Message } from './follower.ts';

/** The longest delay of an event whose NOTIFY is lost. */
const POLL_MS = 1_000;
const BATCH = 500;
/** Messages that followers receive in one turn of the event loop, so that requests are not delayed. */
const MAX_PER_TURN = 2_000;
/** Events of the history that are read for one follower at a time. */
const HISTORY_BATCH = 200;

/** Sends events to the clients of this process. */
export interface EventHub {
  /**
   * Sends every event that matches `filter`, exactly once: first the history since the event with the id `after`, if it is
   * set, then new events without a gap. Resolves when history has been sent. `signal` ends it.
   */
  follow(filter: EventFilter, after: number | undefined, client: Client, signal: AbortSignal): Promise<void>;
  /**
   * Calls `listener` when the status of a job, or the status or page counts of an upload, has changed. Calls are unordered.
   * Calls that are lost with the connection are followed by `all` on the next one. Returns a function that removes it.
   */
  onChange(listener: (changes: Changes) => void): () => void;
  close(): Promise<void>;
}

/**
 * Reads new events once, in order, for all followers. A LISTEN connection wakes it, with a poll as fallback. Reads nothing
 * without followers. The owner calls `close()`.
 */
export function createEventHub(parts: HubParts): EventHub {
  return new Hub(parts);
}

interface HubParts {
  db: Database;
  /** The same database, over a few connections for the history of streams, which takes longer. */
  heavyDb: Database;
  databaseUrl: string;
  log: Logger;
}

class Hub implements EventHub {
  readonly #db: Database;
  readonly #heavyDb: Database;
  readonly #log: Logger;
  readonly #followers = new Set<Follower>();
  readonly #changeListeners = new Set<(changes: Changes) => void>();
  /** Jobs whose new progress has not been sent to followers. */
  readonly #progressed = new Set<string>();
  readonly #wake = new WakeFlag();
  readonly #listener: Listener;
  readonly #running: Promise<void>;
  /** Followers have received all events up to this place; undefined without followers. */
  #cursor: EventCursor | undefined;
  #isClosed = false;

  constructor({ db, heavyDb, databaseUrl, log }: HubParts) {
    this.#db = db;
    this.#heavyDb = heavyDb;
    this.#log = log;
    this.#listener = listen(databaseUrl, {
      name: 'sheetmill-events',
      log,
      channels: {
        [EVENTS_CHANNEL]: () => this.#wake.set(),
        [CHANGES_CHANNEL]: (payload) => this.#reportChanges(readChanges(payload)),
        [PROGRESS_CHANNEL]: (payload) => this.#noteProgress(readChanges(payload)),
      },
    });
    this.#running = this.#run();
  }

  async follow(filter: EventFilter, after: number | undefined, client: Client, signal: AbortSignal): Promise<void> {
    const now = await currentCursor(this.#db);
    const from = after === undefined ? now : await cursorAt(this.#db, after);
    if (signal.aborted) return;
    const follower = new Follower(filter, from, client);
    this.#followers.add(follower);
    signal.addEventListener('abort', () => this.#followers.delete(follower), { once: true });
    // The follower keeps the events after the hub's cursor from now on, so its history ends there.
    this.#cursor ??= now;
    const upTo = this.#cursor;
    if (after !== undefined) await this.#sendHistory(filter, { after: from, upTo }, client, signal);
    await follower.goLive();
    this.#wake.set();
  }

  onChange(listener: (changes: Changes) => void): () => void {
    this.#changeListeners.add(listener);
    return () => this.#changeListeners.delete(listener);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#wake.set();
    await Promise.all([this.#listener.close(), this.#running]);
  }

  async #run(): Promise<void> {
    while (!this.#isClosed) {
      await this.#wake.wait(POLL_MS);
      try {
        await this.#sendEvents();
        await this.#sendProgress();
      } catch (error) {
        this.#log.warn({ err: error }, 'events could not be read; trying again');
      }
    }
  }

  async #sendEvents(): Promise<void> {
    for (;;) {
      if (this.#followers.size === 0) this.#cursor = undefined;
      if (this.#cursor === undefined) return;
      const events = await readEvents(this.#db, { after: this.#cursor, limit: BATCH });
      let sent = 0;
      for (const event of events) {
        this.#cursor = { xact: event.xact, id: event.id };
        const message = messageOf(event);
        for (const follower of this.#followers) if (!follower.push(message)) this.#followers.delete(follower);
        sent += this.#followers.size;
        if (sent < MAX_PER_TURN) continue;
        sent = 0;
        await yieldToRequests();
      }
      if (events.length === 0) return;
    }
  }

  /** Runs after `#sendEvents`, so that progress follows the start of its attempt. */
  async #sendProgress(): Promise<void> {
    const jobIds = [...this.#progressed];
    this.#progressed.clear();
    const cursor = this.#cursor;
    if (jobIds.length === 0 || cursor === undefined) return;
    for (const progress of await readProgress(this.#db, jobIds, cursor)) {
      const message = messageOf(progressEvent(progress, cursor));
      for (const follower of this.#followers) follower.pushProgress(message);
    }
  }

  async #sendHistory(
    filter: EventFilter,
    { after, upTo }: { after: EventCursor; upTo: EventCursor },
    client: Client,
    signal: AbortSignal,
  ): Promise<void> {
    for (let from = after; !signal.aborted; ) {
      const events = await readEvents(this.#heavyDb, { after: from, upTo, filter, limit: HISTORY_BATCH });
      const last = events.at(-1);
      if (last === undefined) return;
      await client.sendHistory(events.map((event) => messageOf(event).bytes()));
      if (events.length < HISTORY_BATCH) return;
      from = { xact: last.xact, id: last.id };
    }
  }

  #reportChanges(changes: Changes): void {
    for (const listener of this.#changeListeners) listener(changes);
  }

  /** Ignores `all`, since each job reports its progress again within a second. */
  #noteProgress(changes: Changes): void {
    if (changes === 'all' || this.#followers.size === 0) return;
    for (const id of changes.jobIds) this.#progressed.add(id);
    this.#wake.set();
  }
}

/** Progress has no event row. It carries the id of the event before it, so that a follower can resume there. */
function progressEvent(progress: JobProgress, { xact, id }: EventCursor): StreamEvent & { xact: string } {
  return { ...progress, xact, id, kind: 'job', status: 'running', data: null, at: new Date() };
}

function messageOf(event: Event | (StreamEvent & { xact: string })): Message {
  const { xact, id, owner, jobId, uploadId } = event;
  let bytes: Buffer | undefined;
  return {
    place: { xact, id },
    owner,
    jobId,
    uploadId,
    bytes() {
      bytes ??= Buffer.from(JSON.stringify(eventDocument(event)));
      return bytes;
    },
  };
}
