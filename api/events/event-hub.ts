import { setImmediate as yieldToOthers } from 'node:timers/promises';
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
import { eventDocument, type StreamEvent } from '../documents.ts';
import { type Changes, readChanges } from './changes.ts';
import { type Client, Follower, type Message } from './follower.ts';

/** How long a lost NOTIFY can delay an event. */
const POLL_MS = 1_000;
const BATCH = 500;
/** Messages that are given to followers in one turn of the event loop: requests come in between. */
const MAX_GIVEN = 2_000;
/** Events of the history that are read for one follower at a time: each follower has its own. */
const HISTORY_BATCH = 200;

/** Tells the clients of this process what happens. */
export interface EventHub {
  /**
   * Sends every event that matches `filter`: if `after` is set, those kept since the event with that id; then, without a
   * gap and each once, those that come. Resolves when history has been sent; `signal` ends it.
   */
  follow(filter: EventFilter, after: number | undefined, client: Client, signal: AbortSignal): Promise<void>;
  /**
   * Calls `listener` when the status of jobs or uploads, or the page counts of uploads, have changed: as soon as the
   * change commits, in no order. Each call may be lost with the connection; `all` follows when it is open again. Gives a
   * function that ends it.
   */
  onChange(listener: (changes: Changes) => void): () => void;
  close(): Promise<void>;
}

/**
 * Reads new events once, in their order, for all followers: one LISTEN connection wakes it, and a slow poll backs that up.
 * Reads nothing while nobody follows. The owner calls `close()`.
 */
export function createEventHub(parts: HubParts): EventHub {
  return new Hub(parts);
}

interface HubParts {
  db: Database;
  /** For the history of streams, which may take long. */
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
  /** Jobs whose progress has changed since followers were told. */
  readonly #progressed = new Set<string>();
  readonly #wake = new WakeFlag();
  readonly #listener: Listener;
  readonly #running: Promise<void>;
  /** The followers have been given everything up to here; undefined while there are none. */
  #cursor: EventCursor | undefined;
  #closed = false;

  constructor({ db, heavyDb, databaseUrl, log }: HubParts) {
    this.#db = db;
    this.#heavyDb = heavyDb;
    this.#log = log;
    this.#listener = listen(databaseUrl, {
      name: 'sheetmill-events',
      log,
      channels: {
        [EVENTS_CHANNEL]: () => this.#wake.set(),
        [CHANGES_CHANNEL]: (payload) => this.#tellChanges(readChanges(payload)),
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
    // From here on the follower keeps what comes after the hub's cursor; history ends there.
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
    this.#closed = true;
    this.#wake.set();
    await Promise.all([this.#listener.close(), this.#running]);
  }

  async #run(): Promise<void> {
    while (!this.#closed) {
      await this.#wake.wait(POLL_MS);
      try {
        await this.#passOnEvents();
        await this.#passOnProgress();
      } catch (error) {
        this.#log.warn({ err: error }, 'events not read');
      }
    }
  }

  async #passOnEvents(): Promise<void> {
    for (;;) {
      if (this.#followers.size === 0) this.#cursor = undefined;
      if (this.#cursor === undefined) return;
      const events = await readEvents(this.#db, { after: this.#cursor, limit: BATCH });
      let given = 0;
      for (const event of events) {
        this.#cursor = { xact: event.xact, id: event.id };
        const message = messageOf(event);
        for (const follower of this.#followers) if (!follower.give(message)) this.#followers.delete(follower);
        given += this.#followers.size;
        if (given < MAX_GIVEN) continue;
        given = 0;
        await yieldToOthers();
      }
      if (events.length === 0) return;
    }
  }

  /** After the events: a follower hears of progress between the start and the end of its attempt. */
  async #passOnProgress(): Promise<void> {
    const jobIds = [...this.#progressed];
    this.#progressed.clear();
    const cursor = this.#cursor;
    if (jobIds.length === 0 || cursor === undefined) return;
    for (const progress of await readProgress(this.#db, jobIds, cursor)) {
      const message = messageOf(progressEvent(progress, cursor));
      for (const follower of this.#followers) follower.giveProgress(message);
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

  #tellChanges(changes: Changes): void {
    for (const listener of this.#changeListeners) listener(changes);
  }

  /** Progress of too many jobs to name is left out: each job reports again within a second. */
  #noteProgress(changes: Changes): void {
    if (changes === 'all' || this.#followers.size === 0) return;
    for (const id of changes.jobIds) this.#progressed.add(id);
    this.#wake.set();
  }
}

/** Progress has no row among the events: it carries the id of the event before it, after which a follower resumes. */
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
