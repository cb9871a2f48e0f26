import type { Database } from '../db/client.ts';
import {
  currentCursor,
  cursorAt,
  EVENTS_CHANNEL,
  type Event,
  type EventCursor,
  type EventFilter,
  type OwnedEvent,
  readEvents,
} from '../db/events.ts';
import { listen } from '../db/listen.ts';
import type { Logger } from '../log.ts';
import { createSignal } from '../signal.ts';

/** How long a lost NOTIFY can delay an event. */
const POLL_MS = 1_000;
const BATCH = 500;
/** Events that may pile up for a follower that is still reading history. */
const MOST_PENDING = 10_000;

/** What a follower wants, and may see: the events of one owner, if it is named. */
type Interest = EventFilter & { owner: string | undefined };

interface Follower {
  interest: Interest;
  /** Events that came while history is still being read; undefined from then on. */
  pending: Event[] | undefined;
  onEvent: (event: Event) => void;
  onOverrun: () => void;
}

export type EventHub = ReturnType<typeof createEventHub>;

/**
 * Reads new events once, in their order, for however many followers: one LISTEN connection wakes it, and a slow poll backs
 * that up. Reads nothing while nobody follows. The owner calls `close()`.
 */
export function createEventHub({ db, databaseUrl, log }: { db: Database; databaseUrl: string; log: Logger }) {
  const followers = new Set<Follower>();
  const watchers = new Set<(events: Event[]) => void>();
  const wake = createSignal();
  /** Everything before it has been given to the followers. */
  let cursor: EventCursor | undefined;
  let closed = false;
  const listener = listen(databaseUrl, { name: 'sheetmill-events', log, channels: { [EVENTS_CHANNEL]: wake.set } });

  async function passOn(): Promise<void> {
    for (;;) {
      if (followers.size === 0 && watchers.size === 0) cursor = undefined;
      if (cursor === undefined) return;
      const events: OwnedEvent[] = await readEvents(db, { after: cursor, limit: BATCH });
      const last = events.at(-1);
      if (last === undefined) return;
      cursor = { xact: last.xact, id: last.id };
      for (const watcher of watchers) watcher(events);
      for (const event of events) for (const follower of followers) give(follower, event);
    }
  }

  function give(follower: Follower, event: OwnedEvent): void {
    const { jobId, uploadId, owner } = follower.interest;
    if (owner !== undefined && event.owner !== owner) return;
    if (jobId !== undefined && event.jobId !== jobId) return;
    if (uploadId !== undefined && event.uploadId !== uploadId) return;
    if (follower.pending === undefined) follower.onEvent(event);
    else if (follower.pending.push(event) > MOST_PENDING) {
      followers.delete(follower);
      follower.onOverrun();
    }
  }

  const running = (async () => {
    while (!closed) {
      await wake.wait(POLL_MS);
      await passOn().catch((error) => log.warn({ err: error }, 'events not read'));
    }
  })();

  return {
    /**
     * Gives every event that matches: those kept since the event `after`, if it is set, by `onHistory`, which is awaited;
     * then, without a gap and each once, those that come, by `onEvent`. `signal` ends it. `onOverrun` is called instead
     * when too many come while history is read.
     */
    async follow(
      interest: Interest,
      after: number | undefined,
      {
        signal,
        onHistory,
        onEvent,
        onOverrun,
      }: {
        signal: AbortSignal;
        onHistory: (event: Event) => Promise<void>;
        onEvent: (event: Event) => void;
        onOverrun: () => void;
      },
    ): Promise<void> {
      const now = await currentCursor(db);
      if (signal.aborted) return;
      const follower: Follower = { interest, pending: [], onEvent, onOverrun };
      followers.add(follower);
      signal.addEventListener('abort', () => followers.delete(follower));
      cursor ??= now;
      // From here on the hub keeps for this follower what lies behind its cursor; history goes up to there.
      const upTo = cursor;
      if (after !== undefined) {
        for (let from = await cursorAt(db, after); !signal.aborted; ) {
          const events = await readEvents(db, { after: from, upTo, filter: interest, limit: BATCH });
          for (const event of events) {
            if (interest.owner === undefined || event.owner === interest.owner) await onHistory(event);
          }
          const last = events.at(-1);
          if (last === undefined || events.length < BATCH) break;
          from = { xact: last.xact, id: last.id };
        }
      }
      for (const event of follower.pending ?? []) onEvent(event);
      follower.pending = undefined;
      wake.set();
    },
    /** Gives all events of what commits once this has resolved, as they are read; gives a function that ends it. */
    async watch(onEvents: (events: Event[]) => void): Promise<() => void> {
      const now = await currentCursor(db);
      const watcher = (events: Event[]) => onEvents(events);
      watchers.add(watcher);
      cursor ??= now;
      wake.set();
      return () => watchers.delete(watcher);
    },
    async close(): Promise<void> {
      closed = true;
      wake.set();
      await Promise.all([listener.close(), running]);
    },
  };
}
