import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import {
  createRemoteJWKSet,
  errors,
  type JWTPayload,
  type JWTVerifyGetKey,
  type JWTVerifyOptions,
  jwtVerify,
} from 'jose';
import { asksForKeys, type Config } from '../../runtime/config.ts';
import { ownerName, SCOPES, type Scope } from '../../runtime/config-values.ts';
import { AppError } from '../../runtime/errors.ts';

/** The owner of a key or token, and its scopes. */
export interface Identity {
  /** Null when the service requires no key. */
  owner: string | null;
  scopes: ReadonlySet<Scope>;
  /** When the token expires, in seconds since 1970; undefined for keys. */
  expires?: number | undefined;
}

/** The identity of every request when the service requires no key. */
const ANONYMOUS: Identity = { owner: null, scopes: new Set(['admin']) };

/** The maximum difference between our clock and the clock of the issuer. */
const CLOCK_SKEW_SECONDS = 30;

/** Errors of jose that mean that the keys of the issuer could not be read, so that the token may be valid. */
const JWKS_ERRORS = ['ERR_JWKS_TIMEOUT', 'ERR_JWKS_INVALID', 'ERR_JOSE_GENERIC'];

/**
 * Gives a function that identifies the owner of an API key or JWT. It throws 401 for a missing or invalid token, and 503
 * when the keys of the issuer cannot be fetched.
 */
export function createAuthenticator(config: Config): (token: string | undefined) => Promise<Identity> {
  if (!asksForKeys(config)) return async () => ANONYMOUS;
  const keys = (config.API_KEYS ?? []).map(({ name, sha256, scopes }) => ({
    hash: Buffer.from(sha256, 'hex'),
    identity: { owner: name, scopes: new Set(scopes) } satisfies Identity,
  }));
  const readJwt = jwtReader(config);

  return async function identify(token) {
    if (token === undefined) throw unauthorized('a key is required: send Authorization: Bearer ...');
    const hash = createHash('sha256').update(token).digest();
    // The hash is compared with every key, so that the time of the comparison reveals no key.
    const [known] = keys.filter((key) => timingSafeEqual(key.hash, hash));
    if (known !== undefined) return known.identity;
    if (readJwt === undefined) throw unauthorized('invalid API key');
    return identityOf(await readJwt(token));
  };
}

/** Undefined when no issuer is configured. */
function jwtReader({ JWT_ISSUER, JWT_AUDIENCE, JWT_JWKS_URL, JWT_SECRET }: Config) {
  if (JWT_ISSUER === undefined || JWT_AUDIENCE === undefined) return undefined;
  const options: JWTVerifyOptions = {
    issuer: JWT_ISSUER,
    audience: JWT_AUDIENCE,
    requiredClaims: ['exp', 'sub'],
    clockTolerance: CLOCK_SKEW_SECONDS,
  };
  // A JWKS names the algorithm of each key; a secret must be limited to HMAC.
  if (JWT_SECRET !== undefined) options.algorithms = ['HS256', 'HS384', 'HS512'];
  const secret = new TextEncoder().encode(JWT_SECRET);
  const keyFor: JWTVerifyGetKey = JWT_JWKS_URL === undefined ? () => secret : createRemoteJWKSet(new URL(JWT_JWKS_URL));

  return async function readJwt(token: string): Promise<JWTPayload> {
    try {
      return (await jwtVerify(token, keyFor, options)).payload;
    } catch (error) {
      if (error instanceof errors.JOSEError && !JWKS_ERRORS.includes(error.code)) {
        throw unauthorized(`invalid API key or token: ${error.message}`);
      }
      throw new AppError('unavailable', 'the keys of the token issuer (JWKS) cannot be fetched: try again later', {
        status: 503,
        cause: error,
      });
    }
  };
}

/** Ignores the scopes of other services. */
function identityOf({ sub, scope, exp }: JWTPayload): Identity {
  const owner = ownerName.safeParse(sub);
  if (!owner.success) throw unauthorized(`invalid token: sub ${owner.error.issues[0]?.message}`);
  const given = typeof scope === 'string' ? scope.split(' ') : [];
  return { owner: owner.data, scopes: new Set(SCOPES.filter((one) => given.includes(one))), expires: exp };
}

function unauthorized(message: string): AppError {
  return new AppError('unauthorized', message, { status: 401 });
}

/**
 * Reads the token from `Authorization: Bearer ...`, or percent-encoded from the WebSocket subprotocol `bearer....`: browsers
 * can set no other header of a WebSocket, and a token in the URL would be logged.
 */
export function tokenOf({ headers }: IncomingMessage): string | undefined {
  const [scheme = '', token, ...more] = (headers.authorization ?? '').split(' ').filter((word) => word !== '');
  if (scheme.toLowerCase() === 'bearer' && token !== undefined && more.length === 0) return token;
  const protocols = headers['sec-websocket-protocol']?.split(',').map((protocol) => protocol.trim()) ?? [];
  const offered = protocols.find((protocol) => protocol.startsWith('bearer.'))?.slice('bearer.'.length);
  try {
    return offered && decodeURIComponent(offered);
  } catch {
    // The text is not percent-encoded: it can be the token itself.
    return offered;
  }
}
