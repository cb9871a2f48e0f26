import { createHash, timingSafeEqual } from 'node:crypto';
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

/** Who sends a request, and what that one may do. */
export interface Identity {
  /** The name that the rows made by it carry; null where nobody is asked for a key. */
  owner: string | null;
  scopes: ReadonlySet<Scope>;
  /** When its token expires, in seconds since 1970; undefined for what does not. */
  expires?: number | undefined;
}

const ANYBODY: Identity = { owner: null, scopes: new Set(['admin']) };

/** Clocks may differ by this much. */
const CLOCK_SKEW_SECONDS = 30;

/** What jose cannot get hold of is no fault of the token. */
const KEYS_OUT_OF_REACH = ['ERR_JWKS_TIMEOUT', 'ERR_JWKS_INVALID', 'ERR_JOSE_GENERIC'];

/**
 * Makes the function that tells whose a token is: an API key, or a JWT. It throws `unauthorized` (401) for a token that is
 * missing or not good, and `unavailable` (503) when the keys of the issuer cannot be fetched.
 */
export function createAuthenticator(config: Config): (token: string | undefined) => Promise<Identity> {
  if (!asksForKeys(config)) return async () => ANYBODY;
  const keys = (config.API_KEYS ?? []).map(({ name, sha256, scopes }) => ({
    hash: Buffer.from(sha256, 'hex'),
    identity: { owner: name, scopes: new Set(scopes) } satisfies Identity,
  }));
  const readJwt = jwtReader(config);

  return async function identify(token) {
    if (token === undefined) throw unauthorized('send a key: Authorization: Bearer ...');
    const hash = createHash('sha256').update(token).digest();
    // Every key is compared, and by its hash, so that the time taken tells nothing about any.
    const [known] = keys.filter((key) => timingSafeEqual(key.hash, hash));
    if (known !== undefined) return known.identity;
    if (readJwt === undefined) throw unauthorized('the key is not known');
    return identityOf(await readJwt(token));
  };
}

/** Undefined where no issuer is configured. */
function jwtReader({ JWT_ISSUER, JWT_AUDIENCE, JWT_JWKS_URL, JWT_SECRET }: Config) {
  if (JWT_ISSUER === undefined || JWT_AUDIENCE === undefined) return undefined;
  const options: JWTVerifyOptions = {
    issuer: JWT_ISSUER,
    audience: JWT_AUDIENCE,
    requiredClaims: ['exp', 'sub'],
    clockTolerance: CLOCK_SKEW_SECONDS,
  };
  // A set of public keys knows by itself which algorithms they are for; a secret is for these alone.
  if (JWT_SECRET !== undefined) options.algorithms = ['HS256', 'HS384', 'HS512'];
  const secret = new TextEncoder().encode(JWT_SECRET);
  const keyFor: JWTVerifyGetKey = JWT_JWKS_URL === undefined ? () => secret : createRemoteJWKSet(new URL(JWT_JWKS_URL));

  return async function readJwt(token: string): Promise<JWTPayload> {
    try {
      return (await jwtVerify(token, keyFor, options)).payload;
    } catch (error) {
      if (error instanceof errors.JOSEError && !KEYS_OUT_OF_REACH.includes(error.code)) {
        throw unauthorized(`no key, and no good token: ${error.message}`);
      }
      throw new AppError('unavailable', 'the keys of the issuer of tokens cannot be fetched just now', {
        status: 503,
        cause: error,
      });
    }
  };
}

/** Scopes that are not ours are the business of others. */
function identityOf({ sub, scope, exp }: JWTPayload): Identity {
  const owner = ownerName.safeParse(sub);
  if (!owner.success) throw unauthorized(`no good token: its sub ${owner.error.issues[0]?.message}`);
  const given = typeof scope === 'string' ? scope.split(' ') : [];
  return { owner: owner.data, scopes: new Set(SCOPES.filter((one) => given.includes(one))), expires: exp };
}

function unauthorized(message: string): AppError {
  return new AppError('unauthorized', message, { status: 401 });
}
