import { isIP } from 'node:net';
import { availableParallelism, totalmem } from 'node:os';
import path from 'node:path';
import { z } from 'zod';

function wholeNumber(smallest: number, largest: number) {
  const error = `must be a whole number from ${smallest} to ${largest}`;
  return z.coerce.number({ error }).int({ error }).min(smallest, { error }).max(largest, { error });
}

/** Several values in one variable, divided by commas or blanks. */
function listOf(value: z.ZodString) {
  return z
    .string()
    .transform((text) => text.split(/[\s,]+/).filter((part) => part !== ''))
    .pipe(z.array(value).min(1));
}

const PDF_ENGINES = ['pdfium', 'pdf-to-img'] as const;
const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;

/** What a key or a token may allow; `jobs:*` is both of jobs, `admin` is all of it, whoever it belongs to. */
export const SCOPES = ['uploads:read', 'uploads:write', 'jobs:read', 'jobs:write', 'jobs:*', 'admin'] as const;
export type Scope = (typeof SCOPES)[number];

/** Names of owners: they stand in rows, so they hold nothing that Postgres cannot keep. */
export const ownerName = z
  .string()
  .regex(/^[^\p{Cc}\p{Cs}]{1,200}$/u, 'must be 1 to 200 characters, and none for control');

const keys = z
  .string()
  .transform((text, context) => {
    try {
      return JSON.parse(text);
    } catch {
      context.addIssue('must be a JSON array');
      return z.NEVER;
    }
  })
  .pipe(
    z
      .array(
        z.strictObject({
          name: ownerName,
          sha256: z.string().regex(/^[0-9a-f]{64}$/, 'must be 64 hexadecimal digits in lower case'),
          scopes: z.array(z.enum(SCOPES, { error: `must be one of ${SCOPES.join(', ')}` })).min(1),
        }),
      )
      .min(1),
  )
  .refine((keys) => new Set(keys.map(({ sha256 }) => sha256)).size === keys.length, 'has the same sha256 twice');

/** Variables whose values stay inside the service: `takeEnvironment` removes them from process.env, and no error shows them. */
export const SECRET_VARIABLES = [
  'API_KEYS',
  'JWT_SECRET',
  'WEBHOOK_SECRET',
  'DATABASE_URL',
  'DATABASE_READ_URL',
  'REDIS_URL',
  'AWS_ACCESS_KEY_ID',
  'AWS_SECRET_ACCESS_KEY',
  'AWS_SESSION_TOKEN',
  'OTEL_EXPORTER_OTLP_HEADERS',
  'OTEL_EXPORTER_OTLP_TRACES_HEADERS',
] as const;

/** Settings of the API alone: how it checks clients, signs webhooks and reads faster. */
const API_VARIABLES = /^(AUTH|API_KEYS|JWT_\w+|WEBHOOK_SECRET|DATABASE_READ_URL|REDIS_URL)$/;

/** The environment variables of every other process: the secrets of the API stay away from untrusted files. */
export function withoutApiVariables(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(environment).filter(([name]) => !API_VARIABLES.test(name)));
}

/** What a converter takes besides its sandboxes: 121 MB were measured at a thousand jobs a second. */
export const CONVERTER_MB = 128;
/** What a client of S3 adds to that, 40 MB, and the parts of pages that are about to be stored. */
const S3_MB = 64;
/** What the API, the embedded Postgres and `npm start` itself take where they share a machine with the converter. */
const LOCAL_MB = 512;
const MIN_CAPACITY_MB = 256;
/** Fewer owners cannot fill the whole queue, unless MAX_QUEUED_JOBS_PER_OWNER allows it. */
const OWNERS_TO_FILL_THE_QUEUE = 4;

const collector = z.url({ protocol: /^https?$/, error: 'must be a http or https URL' });

const settings = z.object({
  HOST: z.string().min(1).default('127.0.0.1'),
  PORT: wholeNumber(0, 65535).default(3000),
  /** Who may do what: keys, tokens, or both; `none` says on purpose that everyone may do everything. */
  AUTH: z.literal('none', { error: 'must be none, or unset' }).optional(),
  API_KEYS: keys.optional(),
  /** Names under which clients reach the API, apart from loopback names and HOST. */
  ALLOWED_HOSTS: listOf(z.string().refine(isHostname, 'must be host names or addresses, without ports')).optional(),
  /** Origins of other web pages that may use the API. */
  ALLOWED_ORIGINS: listOf(z.string().refine(isOrigin, 'must be origins such as https://app.example.com')).optional(),
  JWT_ISSUER: z.string().min(1).optional(),
  JWT_AUDIENCE: z.string().min(1).optional(),
  JWT_JWKS_URL: z.url({ protocol: /^https?$/, error: 'must be a http or https URL' }).optional(),
  JWT_SECRET: z.string().min(32, 'must have at least 32 characters').optional(),
  RATE_LIMIT_PER_MINUTE: wholeNumber(1, 1_000_000_000).default(6000),
  MAX_CONCURRENT_UPLOADS: wholeNumber(1, 1_000_000).default(32),
  /** Where a converter serves its metrics and its health; unset, nowhere. */
  METRICS_PORT: wholeNumber(0, 65535).optional(),
  DATA_DIR: z.string().min(1).default('./scratch'),
  /** Where originals and pages live; unset: in DATA_DIR. */
  STORE_URL: z
    .string()
    .regex(/^s3:\/\/[a-z0-9][a-z0-9.-]+(\/[\w.-]+)*\/?$/, 'must be s3://bucket or s3://bucket/prefix')
    .optional(),
  /** The keys of an S3 store; without them, the AWS SDK looks for a role. */
  AWS_ACCESS_KEY_ID: z.string().optional(),
  AWS_SECRET_ACCESS_KEY: z.string().optional(),
  AWS_SESSION_TOKEN: z.string().optional(),
  /** Whether bytes of an S3 store go through the API, or clients are sent to S3 for them. */
  STORE_DOWNLOADS: z.enum(['proxy', 'redirect'], { error: 'must be proxy or redirect' }).default('proxy'),
  DATABASE_URL: z
    .string()
    .regex(/^postgres(ql)?:\/\//, 'must begin with postgres:// or postgresql://')
    .optional(),
  /** A replica of DATABASE_URL that lists and documents are read from. */
  DATABASE_READ_URL: z
    .string()
    .regex(/^postgres(ql)?:\/\//, 'must begin with postgres:// or postgresql://')
    .optional(),
  /** Caches the statuses of ended uploads and jobs for all API processes; without it, every read asks Postgres. */
  REDIS_URL: z
    .string()
    .regex(/^rediss?:\/\//, 'must begin with redis:// or rediss://')
    .optional(),
  MAX_UPLOAD_MB: wholeNumber(1, 1_000_000).default(2048),
  MAX_PAGES: wholeNumber(1, 1_000_000).default(5000),
  MAX_PIXELS: wholeNumber(1, 100_000_000_000).default(1_000_000_000),
  /** How long opening a file, or making one page of it, may take; beyond that it fails for good. */
  PAGE_TIMEOUT_SECONDS: wholeNumber(1, 3600).default(30),
  /** Which renderer goes first; the other one is asked where it fails. */
  PDF_ENGINE: z.enum(PDF_ENGINES, { error: `must be one of ${PDF_ENGINES.join(', ')}` }).default('pdfium'),
  /** The tasks that one sandbox may run: `owner` those of one owner after native code has read its bytes, `never` one. */
  SANDBOX_REUSE: z.enum(['owner', 'never'], { error: 'must be owner or never' }).default('owner'),
  CAPACITY_CPU: wholeNumber(1, 1024).default(availableParallelism()),
  CAPACITY_MEMORY_MB: wholeNumber(MIN_CAPACITY_MB, 16_777_216).optional(),
  /** Uploads and jobs are refused for a while when as many jobs are ready; uploads, too, when the store has less room. */
  MAX_QUEUED_JOBS: wholeNumber(1, 1_000_000_000).default(10_000),
  MAX_SCHEDULES_PER_OWNER: wholeNumber(1, 1_000_000).default(1_000),
  /** The same for one owner: waiting jobs, the payloads of them, and their shapes. Unset: a quarter of MAX_QUEUED_JOBS. */
  MAX_QUEUED_JOBS_PER_OWNER: wholeNumber(1, 1_000_000_000).optional(),
  MAX_QUEUED_PAYLOAD_MB_PER_OWNER: wholeNumber(1, 1_000_000).default(256),
  MAX_SHAPES_PER_OWNER: wholeNumber(1, 10_000).default(32),
  MIN_FREE_MB: wholeNumber(0, 1_000_000_000).default(1024),
  /** Sign webhooks; several while they are being changed, each for the receivers that know it. */
  WEBHOOK_SECRET: listOf(z.string().refine(isWebhookSecret, 'must be whsec_ and 24 to 64 bytes in base64')).optional(),
  /** The only hosts that webhooks are sent to. */
  WEBHOOK_ALLOWED_HOSTS: listOf(
    z.string().refine(isHost, 'must be host names, *.suffixes, addresses or ranges such as 10.0.0.0/8'),
  ).optional(),
  /** How long what has ended is kept: uploads, jobs, events. Unset, for ever. */
  RETENTION_DAYS: wholeNumber(1, 36_500).optional(),
  /** A module of own tasks. */
  TASKS: z.string().min(1).optional(),
  /** The OpenTelemetry collector that spans are sent to. Its SDK reads these and its other variables by itself. */
  OTEL_EXPORTER_OTLP_ENDPOINT: collector.optional(),
  OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: collector.optional(),
  OTEL_EXPORTER_OTLP_HEADERS: z.string().optional(),
  OTEL_EXPORTER_OTLP_TRACES_HEADERS: z.string().optional(),
  SHUTDOWN_GRACE_SECONDS: wholeNumber(0, 3600).default(20),
  LOG_LEVEL: z.enum(LOG_LEVELS, { error: `must be one of ${LOG_LEVELS.join(', ')}` }).default('info'),
});

/** All variables that `parseConfig` reads; docs/configuration.md lists them. */
export const ENVIRONMENT_VARIABLES = Object.keys(settings.shape);

const schema = settings.superRefine((config, context) => {
  const wrong = (name: keyof typeof config, message: string) =>
    context.addIssue({ code: 'custom', path: [name], message });
  const { JWT_ISSUER, JWT_AUDIENCE, JWT_JWKS_URL, JWT_SECRET } = config;
  if (JWT_ISSUER ?? JWT_AUDIENCE ?? JWT_JWKS_URL ?? JWT_SECRET) {
    if (!JWT_ISSUER) wrong('JWT_ISSUER', 'must be set, as other JWT_ variables are');
    if (!JWT_AUDIENCE) wrong('JWT_AUDIENCE', 'must be set, as other JWT_ variables are');
    if (!JWT_JWKS_URL === !JWT_SECRET) wrong('JWT_JWKS_URL', 'either this or JWT_SECRET must be set, and not both');
  }
  if (config.AUTH === 'none' && asksForKeys(config))
    wrong('AUTH', 'contradicts API_KEYS or JWT_ISSUER: unset one of them');
});
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

function isHost(text: string): boolean {
  const [address = '', bits, ...more] = text.split('/');
  const version = more.length > 0 ? 0 : isIP(address);
  if (version === 0) return /^(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*$/i.test(text);
  return bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= (version === 4 ? 32 : 128));
}

export type Config = ReturnType<typeof parseConfig>;

/**
 * Reads the configuration from environment variables; an empty variable counts as unset.
 * Throws an error of one line that names the variable, what it was and what it may be.
 */
export function parseConfig(environment: NodeJS.ProcessEnv) {
  const set = Object.fromEntries(Object.entries(environment).filter(([, value]) => value !== ''));
  const parsed = schema.safeParse(set);
  if (!parsed.success) {
    throw new Error(
      parsed.error.issues
        .map(({ path: [name, ...place], message }) => `${shown(String(name), set)}: ${[...place, message].join(': ')}`)
        .join('; '),
    );
  }
  const dataDir = path.resolve(parsed.data.DATA_DIR);
  const tasks = parsed.data.TASKS;
  return {
    ...parsed.data,
    MAX_QUEUED_JOBS_PER_OWNER:
      parsed.data.MAX_QUEUED_JOBS_PER_OWNER ?? Math.ceil(parsed.data.MAX_QUEUED_JOBS / OWNERS_TO_FILL_THE_QUEUE),
    CAPACITY_MEMORY_MB: parsed.data.CAPACITY_MEMORY_MB ?? defaultCapacityMb(CONVERTER_MB, parsed.data),
    DATA_DIR: dataDir,
    STORE_DIR: path.join(dataDir, 'store'),
    TASKS: tasks === undefined ? undefined : path.resolve(tasks),
  };
}

/** A variable as an error may show it: without a secret, or the password in a URL. */
function shown(name: string, set: Record<string, string | undefined>): string {
  const value = set[name];
  const isSecret = SECRET_VARIABLES.some((secret) => secret === name);
  if (value === undefined || isSecret) return name;
  return `${name}=${JSON.stringify(value.replace(/\/\/.*@/s, '//...@'))}`;
}

/** Whether clients must show a key or a token. */
export function asksForKeys({ API_KEYS, JWT_ISSUER }: Pick<Config, 'API_KEYS' | 'JWT_ISSUER'>): boolean {
  return API_KEYS !== undefined || JWT_ISSUER !== undefined;
}

/** CAPACITY_MEMORY_MB for a converter that shares its machine with all the rest. */
export function sharedCapacityMb({ CAPACITY_MEMORY_MB, STORE_URL }: NodeJS.ProcessEnv): string {
  return CAPACITY_MEMORY_MB || String(defaultCapacityMb(CONVERTER_MB + LOCAL_MB, { STORE_URL }));
}

/** The machine's memory, or the container's, less what is no sandbox; the smallest class where that leaves nothing. */
function defaultCapacityMb(othersMb: number, { STORE_URL }: { STORE_URL?: string | undefined }): number {
  const memoryMb = Math.floor(Math.min(totalmem(), process.constrainedMemory() || Infinity) / 2 ** 20);
  return Math.max(MIN_CAPACITY_MB, memoryMb - othersMb - (STORE_URL ? S3_MB : 0));
}

/** For the start of a process: the configuration, or one line that says what is wrong with it, and the end. */
export function configOrExit(environment: NodeJS.ProcessEnv): Config {
  try {
    return parseConfig(environment);
  } catch (error) {
    return exitWithReason(error as Error);
  }
}

/** For the start of a process that cannot go on: one line that says why, and the end. */
export function exitWithReason({ message, cause }: Error): never {
  const { message: inner = '', code = '' } = (cause ?? {}) as NodeJS.ErrnoException;
  // Several addresses that refuse have a code and no words.
  const why = inner || code;
  process.stderr.write(`sheetmill: ${message}${why === '' || message.includes(why) ? '' : `: ${why}`}\n`);
  process.exit(1);
}

/** The processes that are started apart have no embedded Postgres. */
export function requireDatabaseUrl({ DATABASE_URL }: Config): string {
  return (
    DATABASE_URL ?? exitWithReason(new Error('DATABASE_URL is not set: it names the Postgres that all processes share'))
  );
}

/** True if a host name, as URLs write it or without brackets, leads to this machine and nowhere else. */
export function isLoopbackHost(hostname: string): boolean {
  return /^(localhost|127(\.\d{1,3}){3}|::1|\[::1\])$/i.test(hostname);
}

/** For the start of what listens: strangers do not get in by an oversight. */
export function requireAuth(config: Config): void {
  const { HOST, AUTH } = config;
  if (asksForKeys(config) || AUTH === 'none' || isLoopbackHost(HOST)) return;
  exitWithReason(
    new Error(
      `HOST=${JSON.stringify(HOST)}: others could reach it, and nobody is asked for a key: set API_KEYS or JWT_ISSUER, or AUTH=none if that is meant`,
    ),
  );
}
