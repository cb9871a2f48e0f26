import { RateLimiterMemory } from 'rate-limiter-flexible';
import { AppError } from '../../runtime/errors.ts';

const WINDOW_SECONDS = 60;

/** Limits the requests of each caller in a window of one minute. */
export class RateLimit {
  readonly #max: number;
  readonly #limiter: RateLimiterMemory;
  readonly #policy: string;

  constructor(max: number) {
    this.#max = max;
    this.#limiter = new RateLimiterMemory({ points: max, duration: WINDOW_SECONDS });
    this.#policy = `"requests";q=${max};w=${WINDOW_SECONDS}`;
  }

  /** Counts a request. Calls `setHeaders` with the state of the limit, then throws 429 if the limit is exceeded. */
  async count(name: string, setHeaders: (headers: Record<string, string>) => void): Promise<void> {
    const { consumedPoints, remainingPoints, msBeforeNext } = await this.#limiter.penalty(name);
    const seconds = Math.ceil(msBeforeNext / 1000);
    setHeaders({ 'RateLimit-Policy': this.#policy, RateLimit: `"requests";r=${remainingPoints};t=${seconds}` });
    if (consumedPoints > this.#max) throw tooMany(`more than ${this.#max} requests in a minute`, seconds);
  }
}

/** @param seconds until a retry can succeed */
export function tooMany(message: string, seconds: number): AppError {
  return new AppError('too_many_requests', message, { status: 429, details: { retry_after_seconds: seconds } });
}
