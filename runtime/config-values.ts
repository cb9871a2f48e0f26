import { isIP } from 'node:net';
import { z } from 'zod';

/** The values that environment variables may have. Errors say what is valid. */

export function wholeNumber(min: number, max: number) {
  const error = `must be a whole number from ${min} to ${max}`;
  return z.coerce.number({ error }).int({ error }).min(min, { error }).max(max, { error });
}

export function oneOf<const Values extends readonly string[]>(values: Values) {
  const all = values.length > 2 ? `one of ${values.join(', ')}` : values.join(' or ');
  return z.enum(values, { error: `must be ${all}` });
}

/** Several values in one variable, separated by commas or spaces. */
function listOf(value: z.ZodString) {
  return z
    .string()
    .transform((text) => text.split(/[\s,]+/).filter((part) => part !== ''))
    .pipe(z.array(value).min(1));
}

export const httpUrl = z.url({ protocol: /^https?$/, error: 'must be a http or https URL' });
export const postgresUrl = z.string().regex(/^postgres(ql)?:\/\//, 'must begin with postgres:// or postgresql://');
export const redisUrl = z.string().regex(/^rediss?:\/\//, 'must begin with redis:// or rediss://');
export const storeUrl = z
  .string()
  .regex(/^s3:\/\/[a-z0-9][a-z0-9.-]+(\/[\w.-]+)*\/?$/, 'must be s3://bucket or s3://bucket/prefix');

export const hostnames = listOf(z.string().refine(isHostname, 'must be host names or addresses, without ports'));
export const origins = listOf(z.string().refine(isOrigin, 'must be origins such as https://app.example.com'));
export const receiverHosts = listOf(
  z.string().refine(isReceiverHost, 'must be host names, *.suffixes, addresses or ranges such as 10.0.0.0/8'),
);
export const webhookSecrets = listOf(z.string().refine(isWebhookSecret, 'must be whsec_ and 24 to 64 bytes in base64'));

/** Permissions of a key or a token. `jobs:*` means both of jobs; `admin` means everything, for all owners. */
export const SCOPES = ['uploads:read', 'uploads:write', 'jobs:read', 'jobs:write', 'jobs:*', 'admin'] as const;
export type Scope = (typeof SCOPES)[number];

/** The name of an owner. Rows hold it, so it has only characters that Postgres can store. */
export const ownerName = z
  .string()
  .regex(/^[^\p{Cc}\p{Cs}]{1,200}$/u, 'must be 1 to 200 characters, without control characters');

const apiKey = z.strictObject({
  name: ownerName,
  sha256: z.string().regex(/^[0-9a-f]{64}$/, 'must be 64 hexadecimal digits in lower case'),
  scopes: z.array(oneOf(SCOPES)).min(1),
});

export const apiKeys = z
  .string()
  .transform((text, context) => {
    try {
      return JSON.parse(text);
    } catch {
      context.addIssue('must be a JSON array');
      return z.NEVER;
    }
  })
  .pipe(z.array(apiKey).min(1))
  .refine((keys) => new Set(keys.map(({ sha256 }) => sha256)).size === keys.length, 'has the same sha256 twice');

function isWebhookSecret(text: string): boolean {
  const [, base64] = /^whsec_([A-Za-z0-9+/]+={0,2})$/.exec(text) ?? [];
  const bytes = Buffer.from(base64 ?? '', 'base64');
  return bytes.length >= 24 && bytes.length <= 64 && bytes.toString('base64') === base64;
}

function isHostname(text: string): boolean {
  return isIP(text) !== 0 || /^[a-z0-9_-]+(\.[a-z0-9_-]+)*$/i.test(text);
}

function isOrigin(text: string): boolean {
  return /^https?:/.test(text) && URL.parse(text)?.origin === text;
}

function isReceiverHost(text: string): boolean {
  const [address = '', bits, ...more] = text.split('/');
  const version = more.length > 0 ? 0 : isIP(address);
  if (version === 0) return /^(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*$/i.test(text);
  return bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= (version === 4 ? 32 : 128));
}
