import type { IncomingMessage } from 'node:http';
import type { RequestHandler } from 'express';
import type { Config } from '../../runtime/config.ts';
import { AppError } from '../../runtime/errors.ts';
import { Quota } from '../../runtime/quota.ts';
import { createAuthenticator, tokenOf } from './authenticate.ts';
import { ANONYMOUS, type Caller } from './caller.ts';
import { notFound } from './problem.ts';
import { RateLimit } from './rate-limit.ts';
import { stateOf } from './request-state.ts';
import { releaseOnClose, runFor } from './requester.ts';
import { accessTo, allows } from './scopes.ts';

/** Requests in progress, long polls included: the same number as the maximum of connections. */
const MAX_REQUESTS = 4_000;

/**
 * Gives the caller of a request to `path`, or throws 401, 403, 404 or 429. Calls `setHeaders` with headers for the answer,
 * also before it throws. Reads only the headers of the request.
 */
export type Authorize = (
  request: IncomingMessage,
  path: string,
  setHeaders?: (headers: Record<string, string>) => void,
) => Promise<Caller>;

/** The stream and all routes share one function, so that they share the rate limit. */
export function createAuthorize(
  config: Config,
  onAuthorized: (request: IncomingMessage) => void = () => undefined,
): Authorize {
  const identify = createAuthenticator(config);
  const rateLimit = new RateLimit(config.RATE_LIMIT_PER_MINUTE);

  return async function authorize(request, path, setHeaders = () => undefined) {
    const access = accessTo(request.method ?? '', path);
    if (access === 'open') return ANONYMOUS;
    const address = request.socket.remoteAddress ?? '';
    const { owner, scopes, expires } = await identify(tokenOf(request)).catch(async (error) => {
      // Failed attempts count for the address, so that keys cannot be guessed without limit.
      await rateLimit.count(`address ${address}`, setHeaders);
      throw error;
    });
    const requester = owner !== null ? `owner ${owner}` : isLoopback(address) ? undefined : `address ${address}`;
    if (requester !== undefined) await rateLimit.count(requester, setHeaders);
    if (access === undefined) throw notFound(`${request.method} ${path}`);
    if (!allows(scopes, access)) {
      throw new AppError('forbidden', `requires the scope ${access}`, { status: 403, details: { scope: access } });
    }
    onAuthorized(request);
    return { owner, sees: owner === null || scopes.has('admin') ? undefined : owner, requester, expires };
  };
}

/** Authorizes each request before its body is read. Handlers read the caller with `callerOf`. */
export function requireAuthorization(authorize: Authorize): RequestHandler {
  const room = new Quota({ name: 'requests', max: MAX_REQUESTS });

  return async function authorizeRequest(request, response, next) {
    const caller = await authorize(request, request.path, (headers) => response.set(headers));
    stateOf(request).caller = caller;
    releaseOnClose(response, room.take(caller.requester));
    runFor(caller.requester, next);
  };
}

function isLoopback(address: string): boolean {
  return address === '::1' || /^(::ffff:)?127\./.test(address);
}
