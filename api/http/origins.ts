import type { IncomingMessage } from 'node:http';
import { isIP } from 'node:net';
import { asksForKeys, type Config, isLoopbackHost } from '../../runtime/config.ts';
import { AppError } from '../../runtime/errors.ts';

/**
 * Which web pages may use the service. Where no key is needed, every page in a browser that reaches the service could act
 * as its user: by a request to another site, or by a host name that an attacker points at this machine (DNS rebinding).
 */

/** Methods that change nothing. */
const SAFE_METHODS = ['GET', 'HEAD', 'OPTIONS'];
/** A host name has 253 characters at most, and a port six with its colon. */
const MAX_HOST_LENGTH = 260;
/** Listening there means every address of the machine. */
const WILDCARDS = ['0.0.0.0', '[::]'];

export type Origins = ReturnType<typeof createOrigins>;

export function createOrigins(
  config: Pick<Config, 'HOST' | 'ALLOWED_HOSTS' | 'ALLOWED_ORIGINS' | 'API_KEYS' | 'JWT_ISSUER'>,
) {
  const isOpen = !asksForKeys(config);
  const checksHost = isOpen || config.ALLOWED_HOSTS !== undefined;
  const checksOrigin = isOpen || config.ALLOWED_ORIGINS !== undefined;
  const known = new Set([config.HOST, ...(config.ALLOWED_HOSTS ?? [])].map((host) => hostnameOf(bracketed(host))));
  const isOnEveryAddress = WILDCARDS.some((wildcard) => known.has(wildcard));
  const allowed = new Set(config.ALLOWED_ORIGINS);

  function isKnownHost(host: string | undefined): boolean {
    const name = hostnameOf(host ?? '');
    if (name === undefined) return false;
    // A page cannot point an address at another machine, only a name.
    return known.has(name) || isLoopbackHost(name) || (isOnEveryAddress && isAddress(name));
  }

  /** A page that may read answers, though it comes from elsewhere. */
  function isAllowed(origin: string | undefined): origin is string {
    return origin !== undefined && allowed.has(origin);
  }

  function isForeign({ origin, host, 'sec-fetch-site': site }: IncomingMessage['headers']): boolean {
    if (isAllowed(origin)) return false;
    if (origin !== undefined && !isSameHost(origin, host ?? '')) return true;
    return site === 'cross-site' || site === 'same-site';
  }

  return {
    isAllowed,
    /** True if answers depend on the page that asks. */
    hasAllowed: allowed.size > 0,
    /** Throws `forbidden` (403) for a request that a foreign page may have sent. `path` is without its query. */
    check(request: IncomingMessage, path: string): void {
      // Probes use any name, and learn only whether the service works.
      if (checksHost && !path.startsWith('/health/') && !isKnownHost(request.headers.host)) {
        throw forbidden('the Host of this request is not a name of this service; ALLOWED_HOSTS lists further names');
      }
      const changes = request.headers.upgrade !== undefined || !SAFE_METHODS.includes(request.method ?? '');
      if (checksOrigin && changes && isForeign(request.headers)) {
        throw forbidden('a page of another origin sent this request; ALLOWED_ORIGINS lists the origins that may');
      }
    },
  };
}

/** The host name in a Host header as URLs write it, IPv6 addresses in brackets; undefined for what is none. */
function hostnameOf(host: string): string | undefined {
  if (host.length > MAX_HOST_LENGTH) return undefined;
  const url = URL.parse(`http://${host}`);
  // Otherwise it holds a user name, a path or a query.
  if (url === null || url.href !== `http://${url.host}/`) return undefined;
  return url.hostname.endsWith('.') ? url.hostname.slice(0, -1) : url.hostname;
}

/** Proxies end TLS: the scheme of an origin decides its default port and nothing else. */
function isSameHost(origin: string, host: string): boolean {
  if (origin.length > MAX_HOST_LENGTH || host.length > MAX_HOST_LENGTH) return false;
  const url = URL.parse(origin);
  return url !== null && url.host !== '' && URL.parse(`${url.protocol}//${host}`)?.host === url.host;
}

function isAddress(hostname: string): boolean {
  return isIP(hostname) === 4 || hostname.startsWith('[');
}

function bracketed(host: string): string {
  return isIP(host) === 6 ? `[${host}]` : host;
}

function forbidden(message: string): AppError {
  return new AppError('forbidden', message, { status: 403 });
}
