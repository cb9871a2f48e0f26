import { availableParallelism, totalmem } from 'node:os';
import path from 'node:path';
import { z } from 'zod';
import {
  apiKeys,
  hostnames,
  httpUrl,
  oneOf,
  origins,
  postgresUrl,
  receiverHosts,
  redisUrl,
  storeUrl,
  webhookSecrets,
  wholeNumber,
} from './config-values.ts';
import { errorCode, errorMessage, memberOf } from './errors.ts';

/** The environment variables of all processes. Sizes end in _MB, times in _SECONDS, _DAYS or _PER_MINUTE. */

/** The memory of a converter process, without its sandboxes: 121 MB were measured at a thousand jobs a second. */
export const CONVERTER_MB = 128;
/** The memory of the S3 client, 40 MB, and of the parts that wait to be stored. */
const S3_MB = 64;
/** The memory of the API, the embedded Postgres and `npm start`, where they share a machine with the converter. */
const LOCAL_MB = 512;
const MIN_CAPACITY_MB = 256;
/** The default number of owners that together fill the whole queue. */
const OWNERS_TO_FILL_THE_QUEUE = 4;

/** Every process. */
const common = {
  /** The folder of the embedded Postgres, the store on disk and work files. */
  DATA_DIR: z.string().min(1).default('./scratch'),
  DATABASE_URL: postgresUrl.optional(),
  /** A module with custom tasks. */
  TASKS: z.string().min(1).optional(),
  /** Running work gets this time to end at a shutdown. */
  SHUTDOWN_GRACE_SECONDS: wholeNumber(0, 3600).default(20),
  LOG_LEVEL: oneOf(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']).default('info'),
};

/** The OpenTelemetry collector. The SDK reads its other variables itself. */
const tracing = {
  OTEL_EXPORTER_OTLP_ENDPOINT: httpUrl.optional(),
  OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: httpUrl.optional(),
  OTEL_EXPORTER_OTLP_HEADERS: z.string().optional(),
  OTEL_EXPORTER_OTLP_TRACES_HEADERS: z.string().optional(),
};

/** The store of originals and pages: on disk in DATA_DIR unless STORE_URL names an S3 bucket. */
const store = {
  STORE_URL: storeUrl.optional(),
  /** `redirect` sends clients to S3 for bytes, `proxy` serves them through the API. */
  STORE_DOWNLOADS: oneOf(['proxy', 'redirect']).default('proxy'),
  /** Without keys, the AWS SDK looks for a role. */
  AWS_ACCESS_KEY_ID: z.string().optional(),
  AWS_SECRET_ACCESS_KEY: z.string().optional(),
  AWS_SESSION_TOKEN: z.string().optional(),
};

/** API: the address, and the clients that may use it. */
const server = {
  HOST: z.string().min(1).default('127.0.0.1'),
  PORT: wholeNumber(0, 65535).default(3000),
  /** Host names of the API, in addition to loopback names and HOST. */
  ALLOWED_HOSTS: hostnames.optional(),
  /** Origins of other web pages that may use the API. */
  ALLOWED_ORIGINS: origins.optional(),
  /** `none` allows everyone everything. Otherwise API_KEYS, the JWT_ variables or both must be set. */
  AUTH: z.literal('none', { error: 'must be none, or unset' }).optional(),
  API_KEYS: apiKeys.optional(),
  JWT_ISSUER: z.string().min(1).optional(),
  JWT_AUDIENCE: z.string().min(1).optional(),
  JWT_JWKS_URL: httpUrl.optional(),
  JWT_SECRET: z.string().min(32, 'must have at least 32 characters').optional(),
};

/** API: reads that need not ask the primary. */
const reads = {
  /** A replica of DATABASE_URL, for lists and documents. */
  DATABASE_READ_URL: postgresUrl.optional(),
  /** A cache of the statuses of ended uploads and jobs, shared by all API processes. */
  REDIS_URL: redisUrl.optional(),
};

/** API: limits of clients. MAX_QUEUED_JOBS and MIN_FREE_MB protect the service, the others each owner from the rest. */
const limits = {
  /** Requests of one owner, or of one address without a key. */
  RATE_LIMIT_PER_MINUTE: wholeNumber(1, 1_000_000_000).default(6000),
  /** Uploads of one owner being received at a time. */
  MAX_CONCURRENT_UPLOADS: wholeNumber(1, 1_000_000).default(32),
  MAX_UPLOAD_MB: wholeNumber(1, 1_000_000).default(2048),
  /** Ready jobs at which uploads and jobs are refused. */
  MAX_QUEUED_JOBS: wholeNumber(1, 1_000_000_000).default(10_000),
  /** Waiting jobs of one owner. The default is a quarter of MAX_QUEUED_JOBS. */
  MAX_QUEUED_JOBS_PER_OWNER: wholeNumber(1, 1_000_000_000).optional(),
  MAX_QUEUED_PAYLOAD_MB_PER_OWNER: wholeNumber(1, 1_000_000).default(256),
  MAX_SHAPES_PER_OWNER: wholeNumber(1, 10_000).default(32),
  MAX_SCHEDULES_PER_OWNER: wholeNumber(1, 1_000_000).default(1_000),
  /** Free space of the store below which uploads are refused. */
  MIN_FREE_MB: wholeNumber(0, 1_000_000_000).default(1024),
};

/** API: webhooks. */
const webhooks = {
  /** Several secrets during a change: each webhook is signed with all of them. */
  WEBHOOK_SECRET: webhookSecrets.optional(),
  /** The only hosts that receive webhooks. */
  WEBHOOK_ALLOWED_HOSTS: receiverHosts.optional(),
};

/** Converter: its capacity, and the limits of a conversion. */
const conversion = {
  /** CPU units that running jobs may reserve. */
  CAPACITY_CPU: wholeNumber(1, 1024).default(availableParallelism()),
  /** Memory that running jobs may reserve. The default is the machine's memory less that of the processes. */
  CAPACITY_MEMORY_MB: wholeNumber(MIN_CAPACITY_MB, 16_777_216).optional(),
  /** `owner` reuses a sandbox for tasks of one owner after native code has read its bytes; `never` starts a new one. */
  SANDBOX_REUSE: oneOf(['owner', 'never']).default('owner'),
  /** The renderer that is tried first. The other one is the fallback. */
  PDF_ENGINE: oneOf(['pdfium', 'pdf-to-img']).default('pdfium'),
  /** Pages of one upload. */
  MAX_PAGES: wholeNumber(1, 1_000_000).default(5000),
  /** Pixels of one image. */
  MAX_PIXELS: wholeNumber(1, 100_000_000_000).default(1_000_000_000),
  /** Opening a file, or rendering one page, fails permanently after this time. */
  PAGE_TIMEOUT_SECONDS: wholeNumber(1, 3600).default(30),
  /** Ended uploads, jobs and events are deleted after this time; never if unset. */
  RETENTION_DAYS: wholeNumber(1, 36_500).optional(),
  /** The port of a converter's metrics and health. Not served unless set. */
  METRICS_PORT: wholeNumber(0, 65535).optional(),
};

const settings = z.object({
  ...common,
  ...tracing,
  ...store,
  ...server,
  ...reads,
  ...limits,
  ...webhooks,
  ...conversion,
});

export interface Config extends z.output<typeof settings> {
  CAPACITY_MEMORY_MB: number;
  MAX_QUEUED_JOBS_PER_OWNER: number;
  /** The folder of the store on disk. */
  STORE_DIR: string;
}

/** Variables with secret values. `takeEnvironment` removes them from process.env, and errors never show them. */
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

/** Variables that only the API reads: it checks clients, signs webhooks and reads from a replica and Redis. */
const API_VARIABLES = /^(AUTH|API_KEYS|JWT_\w+|WEBHOOK_SECRET|DATABASE_READ_URL|REDIS_URL)$/;

/** The environment of every other process, so that the secrets of the API stay away from untrusted files. */
export function withoutApiVariables(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(environment).filter(([name]) => !API_VARIABLES.test(name)));
}

/** All variables that `parseConfig` reads; docs/configuration.md lists them. */
export const ENVIRONMENT_VARIABLES = Object.keys(settings.shape);

const schema = settings.superRefine((config, context) => {
  const refuse = (name: keyof typeof config, message: string) =>
    context.addIssue({ code: 'custom', path: [name], message });
  const { JWT_ISSUER, JWT_AUDIENCE, JWT_JWKS_URL, JWT_SECRET } = config;
  if (JWT_ISSUER ?? JWT_AUDIENCE ?? JWT_JWKS_URL ?? JWT_SECRET) {
    if (!JWT_ISSUER) refuse('JWT_ISSUER', 'must be set, as other JWT_ variables are');
    if (!JWT_AUDIENCE) refuse('JWT_AUDIENCE', 'must be set, as other JWT_ variables are');
    if (!JWT_JWKS_URL === !JWT_SECRET) refuse('JWT_JWKS_URL', 'either this or JWT_SECRET must be set, and not both');
  }
  if (config.AUTH === 'none' && asksForKeys(config))
    refuse('AUTH', 'contradicts API_KEYS or JWT_ISSUER: unset one of them');
});

/**
 * Reads the configuration from environment variables; an empty variable counts as unset.
 * Throws an error of one line that names each wrong variable, its value and the valid values.
 */
export function parseConfig(environment: NodeJS.ProcessEnv): Config {
  const set = Object.fromEntries(Object.entries(environment).filter(([, value]) => value !== ''));
  const { data: config, error } = schema.safeParse(set);
  if (error !== undefined) throw new Error(error.issues.map((issue) => describeIssue(issue, set)).join('; '));
  const { DATA_DIR, TASKS, CAPACITY_MEMORY_MB, MAX_QUEUED_JOBS, MAX_QUEUED_JOBS_PER_OWNER } = config;
  return {
    ...config,
    MAX_QUEUED_JOBS_PER_OWNER: MAX_QUEUED_JOBS_PER_OWNER ?? Math.ceil(MAX_QUEUED_JOBS / OWNERS_TO_FILL_THE_QUEUE),
    CAPACITY_MEMORY_MB: CAPACITY_MEMORY_MB ?? defaultCapacityMb(CONVERTER_MB, config),
    DATA_DIR: path.resolve(DATA_DIR),
    STORE_DIR: path.resolve(DATA_DIR, 'store'),
    TASKS: TASKS === undefined ? undefined : path.resolve(TASKS),
  };
}

/** The variable with its value, and what is wrong. Hides secrets, and the password in a URL. */
function describeIssue({ path: [name, ...place], message }: z.core.$ZodIssue, set: NodeJS.ProcessEnv): string {
  const variable = String(name);
  const value = set[variable];
  const isHidden = value === undefined || SECRET_VARIABLES.some((secret) => secret === variable);
  const shown = isHidden ? variable : `${variable}=${JSON.stringify(value.replace(/\/\/.*@/s, '//...@'))}`;
  return `${shown}: ${[...place, message].join(': ')}`;
}

/** True if clients must send a key or a token. */
export function asksForKeys({ API_KEYS, JWT_ISSUER }: Pick<Config, 'API_KEYS' | 'JWT_ISSUER'>): boolean {
  return API_KEYS !== undefined || JWT_ISSUER !== undefined;
}

/** CAPACITY_MEMORY_MB for a converter that shares its machine with all other processes. */
export function sharedCapacityMb({ CAPACITY_MEMORY_MB, STORE_URL }: NodeJS.ProcessEnv): string {
  return CAPACITY_MEMORY_MB || String(defaultCapacityMb(CONVERTER_MB + LOCAL_MB, { STORE_URL }));
}

/** The memory of the machine, or of the container, less that of the processes; at least the smallest class. */
function defaultCapacityMb(processesMb: number, { STORE_URL }: { STORE_URL?: string | undefined }): number {
  const memoryMb = Math.floor(Math.min(totalmem(), process.constrainedMemory() || Infinity) / 2 ** 20);
  return Math.max(MIN_CAPACITY_MB, memoryMb - processesMb - (STORE_URL ? S3_MB : 0));
}

/** Returns the configuration, or ends the process with one line that says what is wrong with it. */
export function configOrExit(environment: NodeJS.ProcessEnv): Config {
  try {
    return parseConfig(environment);
  } catch (error) {
    return exitWithReason(error);
  }
}

/** Ends a process that cannot start, with one line that says why. */
export function exitWithReason(error: unknown): never {
  const message = errorMessage(error);
  const cause = memberOf(error, 'cause');
  // When several addresses refuse, the error has a code and no message.
  const why = cause === undefined ? '' : errorMessage(cause) || (errorCode(cause) ?? '');
  process.stderr.write(`sheetmill: ${message}${message.includes(why) ? '' : `: ${why}`}\n`);
  process.exit(1);
}

/** Ends a process without DATABASE_URL: only `npm start` has an embedded Postgres. */
export function requireDatabaseUrl({ DATABASE_URL }: Config): string {
  return DATABASE_URL ?? exitWithReason(new Error('DATABASE_URL is not set: all processes share one Postgres'));
}

/** True if a host name reaches only this machine. IPv6 addresses may have the brackets of a URL. */
export function isLoopbackHost(hostname: string): boolean {
  return /^(localhost|127(\.\d{1,3}){3}|::1|\[::1\])$/i.test(hostname);
}

/** Ends a process that would serve other machines without authentication, unless AUTH=none allows it. */
export function requireAuth(config: Config): void {
  const { HOST, AUTH } = config;
  if (asksForKeys(config) || AUTH === 'none' || isLoopbackHost(HOST)) return;
  const advice = 'set API_KEYS or JWT_ISSUER, or AUTH=none to allow it';
  exitWithReason(new Error(`HOST=${JSON.stringify(HOST)}: other machines could use the API without a key: ${advice}`));
}
