import type { IncomingMessage } from 'node:http';
import { finished } from 'node:stream';
import type { Request, RequestHandler, Response } from 'express';
import { RateLimiterMemory } from 'rate-limiter-flexible';
import type { Config } from '../../runtime/config.ts';
import { AppError } from '../../runtime/errors.ts';
import { Quota } from '../../runtime/quota.ts';
import { createAuthenticator } from './authenticate.ts';
import { giveOnClose, holderOf, runFor } from './holder.ts';
import { notFound } from './problem.ts';
import { accessTo, allows } from './scopes.ts';

const WINDOW_SECONDS = 60;
/** How long a client may go on sending after its answer, so that it sees it. */
const LINGER_MS = 5_000;
/** Requests in progress, those that wait among them: as many as there may be connections. */
const MAX_REQUESTS = 4_000;

/** Who sends a request that was let in. */
export interface Caller {
  /** The name that what it makes is stored with; null where nobody is asked for a key. */
  owner: string | null;
  /** Whose uploads, jobs and schedules it sees; undefined means everybody's. */
  sees: string | undefined;
  /** Under which name its use is counted; undefined for what is not limited. */
  countedAs: string | undefined;
  /** When its token expires, in seconds since 1970. */
  expires?: number | undefined;
}

const NOBODY: Caller = { owner: null, sees: undefined, countedAs: undefined };

export type Admission = ReturnType<typeof createAdmission>;

/** The one gate of every request, the stream's too: who is it, is it not too much, and may that one do this? */
export function createAdmission(config: Config, onAdmitted: (request: IncomingMessage) => void = () => undefined) {
  const identify = createAuthenticator(config);
  const most = config.RATE_LIMIT_PER_MINUTE;
  const limiter = new RateLimiterMemory({ points: most, duration: WINDOW_SECONDS });
  const policy = `"requests";q=${most};w=${WINDOW_SECONDS}`;

  /**
   * Gives the caller, or throws what refuses it: 401, 403, 404 or 429. `tell` is given headers for the answer, whichever
   * it is. The body is not touched.
   */
  return async function admit(
    request: IncomingMessage,
    path: string,
    tell: (headers: Record<string, string>) => void = () => undefined,
  ): Promise<Caller> {
    const access = accessTo(request.method ?? '', path);
    if (access === 'open') return NOBODY;
    const address = request.socket.remoteAddress ?? '';

    async function count(name: string | undefined): Promise<void> {
      if (name === undefined) return;
      const counted = await limiter.penalty(name);
      const seconds = Math.ceil(counted.msBeforeNext / 1000);
      tell({ 'RateLimit-Policy': policy, RateLimit: `"requests";r=${counted.remainingPoints};t=${seconds}` });
      if (counted.consumedPoints > most) throw tooMany(`more than ${most} requests in a minute`, seconds);
    }

    const identity = await identify(tokenOf(request)).catch(async (error) => {
      // Who has no good key is counted too: guessing has an end.
      await count(`address ${address}`);
      throw error;
    });
    const { owner, scopes, expires } = identity;
    const countedAs = owner !== null ? `owner ${owner}` : isLoopback(address) ? undefined : `address ${address}`;
    await count(countedAs);
    if (access === undefined) throw notFound(`${request.method} ${path}`);
    if (!allows(scopes, access)) {
      throw new AppError('forbidden', `this takes the scope ${access}`, { status: 403, details: { scope: access } });
    }
    onAdmitted(request);
    return { owner, sees: owner === null || scopes.has('admin') ? undefined : owner, countedAs, expires };
  };
}

const callers = new WeakMap<Request, Caller>();

/** Lets in whom `admit` lets in, before any body is read; handlers ask `callerOf` who it was. */
export function admission(admit: Admission): RequestHandler {
  const room = new Quota({ name: 'requests', max: MAX_REQUESTS });
  return async function letIn(request, response, next) {
    try {
      const caller = await admit(request, request.path, (headers) => response.set(headers));
      callers.set(request, caller);
      response.locals.owner = caller.owner;
      giveOnClose(response, room.take(holderOf(caller)));
    } catch (error) {
      stopReading(request, response);
      throw error;
    }
    runFor(holderOf(callerOf(request)), next);
  };
}

/** Closes the connection of a client that goes on sending after its answer: Node would read that to its end. */
export const boundUnread: RequestHandler = (request, response, next) => {
  response.once('finish', () => {
    if (request.complete) return;
    const cutOff = setTimeout(() => request.destroy(), LINGER_MS).unref();
    finished(request, () => clearTimeout(cutOff));
  });
  next();
};

/** For what is refused before its body is read to the end: the client sees the answer. */
export function stopReading(request: Request, response: Response): void {
  // Otherwise the end of the answer ends the connection of a client that asked for that, in the middle of its body.
  const { shouldKeepAlive } = response;
  response.shouldKeepAlive = true;
  response.once('finish', () => {
    finished(request, () => {
      if (!shouldKeepAlive) request.socket.end();
    });
  });
}

export function callerOf(request: Request): Caller {
  const caller = callers.get(request);
  if (caller === undefined) throw new Error('a handler was reached without admission');
  return caller;
}

/** Whether a row is one that the sender of the request may know of. */
export function isVisible({ owner }: { owner: string | null }, { sees }: Caller): boolean {
  return sees === undefined || owner === sees;
}

/** More than was agreed on; `seconds` until it is worth trying again. */
export function tooMany(message: string, seconds: number): AppError {
  return new AppError('too_many_requests', message, { status: 429, details: { retry_after_seconds: seconds } });
}

/**
 * From `Authorization: Bearer ...`, or percent-encoded from the subprotocol `bearer....` of a WebSocket, where a browser can
 * set nothing else and send no `/` or `=`: it stands in no URL, so that no log has it.
 */
function tokenOf({ headers }: IncomingMessage): string | undefined {
  const [scheme = '', token, ...more] = (headers.authorization ?? '').split(' ').filter((word) => word !== '');
  if (scheme.toLowerCase() === 'bearer' && token !== undefined && more.length === 0) return token;
  const protocols = headers['sec-websocket-protocol']?.split(',') ?? [];
  const offered = protocols
    .map((one) => one.trim())
    .find((one) => one.startsWith('bearer.'))
    ?.slice('bearer.'.length);
  try {
    return offered && decodeURIComponent(offered);
  } catch {
    return offered;
  }
}

function isLoopback(address: string): boolean {
  return address === '::1' || /^(::ffff:)?127\./.test(address);
}
