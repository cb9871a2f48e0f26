import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { isIP } from 'node:net';
import { asksForKeys, type Config, isLoopbackHost } from '../../runtime/config.ts';
import { AppError } from '../../runtime/errors.ts';

/** Methods that change nothing. */
const SAFE_METHODS = ['GET', 'HEAD', 'OPTIONS'];
/** A host name has at most 253 characters, and a port at most six with its colon. */
const MAX_HOST_LENGTH = 260;
/** A service that listens there listens on every address of the machine. */
const WILDCARDS = ['0.0.0.0', '[::]'];

/**
 * Decides which web pages may use the service. Without keys, every page in a browser that reaches the service could act as
 * its user: by a cross-site request, or by a host name that an attacker points at this machine (DNS rebinding).
 */
export class Origins {
  readonly #checksHost: boolean;
  readonly #checksOrigin: boolean;
  /** Host names of the service. */
  readonly #hosts: Set<string | undefined>;
  readonly #isOnEveryAddress: boolean;
  readonly #allowed: Set<string>;

  constructor(config: Pick<Config, 'HOST' | 'ALLOWED_HOSTS' | 'ALLOWED_ORIGINS' | 'API_KEYS' | 'JWT_ISSUER'>) {
    const isOpen = !asksForKeys(config);
    this.#checksHost = isOpen || config.ALLOWED_HOSTS !== undefined;
    this.#checksOrigin = isOpen || config.ALLOWED_ORIGINS !== undefined;
    const hosts = [config.HOST, ...(config.ALLOWED_HOSTS ?? [])];
    this.#hosts = new Set(hosts.map((host) => hostnameOf(isIP(host) === 6 ? `[${host}]` : host)));
    this.#isOnEveryAddress = WILDCARDS.some((wildcard) => this.#hosts.has(wildcard));
    this.#allowed = new Set(config.ALLOWED_ORIGINS);
  }

  /** True if answers depend on the origin of the page. */
  get hasAllowed(): boolean {
    return this.#allowed.size > 0;
  }

  /** True if pages of this other origin may read answers. */
  isAllowed(origin: string | undefined): origin is string {
    return origin !== undefined && this.#allowed.has(origin);
  }

  /** Throws 403 for a request that a page of a foreign origin may have sent. `path` is without the query. */
  check({ method = '', headers }: IncomingMessage, path: string): void {
    // Health probes use any host name, and reveal only whether the service works.
    if (this.#checksHost && !path.startsWith('/health/') && !this.#isKnownHost(headers.host)) {
      throw forbidden('Host: is not a name of this service; the administrator can add names with ALLOWED_HOSTS');
    }
    const isSafe = headers.upgrade === undefined && SAFE_METHODS.includes(method);
    if (this.#checksOrigin && !isSafe && this.#isForeign(headers)) {
      throw forbidden(
        'Origin: a page of another origin sent this request; the administrator can add origins with ALLOWED_ORIGINS',
      );
    }
  }

  #isKnownHost(host: string | undefined): boolean {
    const name = hostnameOf(host ?? '');
    if (name === undefined) return false;
    // A page can point a name at another machine, but not an address.
    return this.#hosts.has(name) || isLoopbackHost(name) || (this.#isOnEveryAddress && isAddress(name));
  }

  #isForeign({ origin, host, 'sec-fetch-site': site }: IncomingHttpHeaders): boolean {
    if (this.isAllowed(origin)) return false;
    if (origin !== undefined && !isSameHost(origin, host ?? '')) return true;
    return site === 'cross-site' || site === 'same-site';
  }
}

/** The host name in a Host header as URLs write it, IPv6 addresses in brackets; undefined for an invalid header. */
function hostnameOf(host: string): string | undefined {
  if (host.length > MAX_HOST_LENGTH) return undefined;
  const url = URL.parse(`http://${host}`);
  // A header with a user name, path or query is not a host.
  if (url === null || url.href !== `http://${url.host}/`) return undefined;
  return url.hostname.endsWith('.') ? url.hostname.slice(0, -1) : url.hostname;
}

/** Compares host and port only: a proxy may terminate TLS, so that the scheme differs. */
function isSameHost(origin: string, host: string): boolean {
  if (origin.length > MAX_HOST_LENGTH || host.length > MAX_HOST_LENGTH) return false;
  const url = URL.parse(origin);
  return url !== null && url.host !== '' && URL.parse(`${url.protocol}//${host}`)?.host === url.host;
}

function isAddress(hostname: string): boolean {
  return isIP(hostname) === 4 || hostname.startsWith('[');
}

function forbidden(message: string): AppError {
  return new AppError('forbidden', message, { status: 403 });
}
