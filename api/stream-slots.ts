import { AppError } from '../errors.ts';
import { tooMany } from './admission.ts';

const MAX_STREAMS = 1_000;
const MAX_STREAMS_PER_OWNER = 100;
const RETRY_AFTER_SECONDS = 5;

/** Counts the open streams of this process, so that no owner takes the room of all others. */
export class StreamSlots {
  readonly #byOwner = new Map<string | null, number>();
  #all = 0;

  /** Takes a slot; gives the function that frees it. Throws 429 when the owner, and 503 when the process has too many. */
  take(owner: string | null): () => void {
    const own = this.#byOwner.get(owner) ?? 0;
    if (own >= MAX_STREAMS_PER_OWNER) {
      throw tooMany(`streams: at most ${MAX_STREAMS_PER_OWNER} at a time`, RETRY_AFTER_SECONDS);
    }
    if (this.#all >= MAX_STREAMS) throw new AppError('unavailable', 'too many streams', { status: 503 });
    this.#byOwner.set(owner, own + 1);
    this.#all++;
    return () => this.#free(owner);
  }

  #free(owner: string | null): void {
    const left = (this.#byOwner.get(owner) ?? 0) - 1;
    if (left > 0) this.#byOwner.set(owner, left);
    else this.#byOwner.delete(owner);
    this.#all--;
  }
}
