import { compareCursors, type EventCursor, type EventFilter } from '../../db/events.ts';

/** Bytes that may wait for a client that reads more slowly than events come; then it is disconnected, and resumes by `after`. */
export const MAX_BACKLOG_BYTES = 2 ** 20;

/** An event as it is sent. All followers share one, so that a backlog costs its bytes once. */
export interface Message {
  place: EventCursor;
  owner: string | null;
  jobId: string | null;
  uploadId: string | null;
  /** The JSON document, made when the first follower wants it. */
  bytes: () => Buffer;
}

/** The client of a follower. */
export interface Client {
  /** Sends history; resolves when the client has room for more. */
  sendHistory(messages: Buffer[]): Promise<void>;
  /** Sends what has just happened. */
  send(message: Buffer): void;
  /** The client reads too slowly: called once, and nothing afterwards. */
  onOverrun(): void;
}

/** One reader of the stream: first of what has happened since its last event, then of what happens. */
export class Follower {
  /** Messages that came while history is read; undefined from then on. */
  #pending: Buffer[] | undefined = [];
  #pendingBytes = 0;
  readonly #filter: EventFilter;
  readonly #after: EventCursor;
  readonly #client: Client;

  /** Gives what matches `filter` and comes after the place `after`. */
  constructor(filter: EventFilter, after: EventCursor, client: Client) {
    this.#filter = filter;
    this.#after = after;
    this.#client = client;
  }

  /** Takes what has just happened. Gives false when the backlog is full: the follower has ended. */
  give(message: Message): boolean {
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

  /** Takes the progress of a job, which has no place in the order: nothing, while history is read. */
  giveProgress(message: Message): void {
    if (this.#pending === undefined && this.#matches(message)) this.#client.send(message.bytes());
  }

  /** Ends history: sends what has come meanwhile, and from then on what comes. */
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
