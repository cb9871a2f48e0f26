import { compareCursors, type EventCursor, type EventFilter } from '../../db/events.ts';

/** Bytes that may wait for a slow client. Beyond this it is disconnected, and can resume with `after`. */
export const MAX_BACKLOG_BYTES = 2 ** 20;

/** A message of the stream. All followers share it, so that the backlogs of many hold its bytes once. */
export interface Message {
  place: EventCursor;
  owner: string | null;
  jobId: string | null;
  uploadId: string | null;
  /** The JSON document, created on the first call. */
  bytes: () => Buffer;
}

/** Receives the messages of a follower. */
export interface Client {
  /** Sends history; resolves when the client has room for more. */
  sendHistory(messages: Buffer[]): Promise<void>;
  /** Sends a new event. */
  send(message: Buffer): void;
  /** Called once when the client reads too slowly; it receives no messages afterwards. */
  onOverrun(): void;
}

/** One reader of the stream: keeps new events while history is sent, then sends them as they happen. */
export class Follower {
  /** New messages while history is sent; undefined afterwards. */
  #pending: Buffer[] | undefined = [];
  #pendingBytes = 0;
  readonly #filter: EventFilter;
  readonly #after: EventCursor;
  readonly #client: Client;

  /** Sends events that match `filter` and have a place after `after`. */
  constructor(filter: EventFilter, after: EventCursor, client: Client) {
    this.#filter = filter;
    this.#after = after;
    this.#client = client;
  }

  /** Sends or keeps a new event. Returns false when the backlog is full, which ends the follower. */
  push(message: Message): boolean {
    if (!this.#matches(message) || compareCursors(message.place, this.#after) <= 0) return true;
    const bytes = message.bytes();
    if (this.#pending === undefined) {
      this.#client.send(bytes);
      return true;
    }
    this.#pending.push(bytes);
    this.#pendingBytes += bytes.length;
    if (this.#pendingBytes <= MAX_BACKLOG_BYTES) return true;
    this.#pending = [];
    this.#client.onOverrun();
    return false;
  }

  /** Sends the progress of a job, which has no place in the order. Drops it while history is sent. */
  pushProgress(message: Message): void {
    if (this.#pending === undefined && this.#matches(message)) this.#client.send(message.bytes());
  }

  /** Ends history: sends the kept events, and from then on each new event at once. */
  async goLive(): Promise<void> {
    for (let batch = this.#pending; batch !== undefined && batch.length > 0; batch = this.#pending) {
      this.#pending = [];
      this.#pendingBytes = 0;
      await this.#client.sendHistory(batch);
    }
    this.#pending = undefined;
  }

  #matches({ owner, jobId, uploadId }: Message): boolean {
    const wanted = this.#filter;
    return (
      (wanted.owner === undefined || wanted.owner === owner) &&
      (wanted.jobId === undefined || wanted.jobId === jobId) &&
      (wanted.uploadId === undefined || wanted.uploadId === uploadId)
    );
  }
}
