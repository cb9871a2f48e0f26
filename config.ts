import { availableParallelism, totalmem } from 'node:os';
import path from 'node:path';
import { z } from 'zod';

function wholeNumber(smallest: number, largest: number) {
  const error = `must be a whole number from ${smallest} to ${largest}`;
  return z.coerce.number({ error }).int({ error }).min(smallest, { error }).max(largest, { error });
}

const PDF_ENGINES = ['pdf-to-img', 'pdfium'] as const;
const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;

/** What a converter takes besides its sandboxes, measured under load. */
const CONVERTER_MB = 256;
/** What the API, the embedded Postgres and `npm start` itself take where they share a machine with the converter. */
const LOCAL_MB = 512;
const SMALLEST_CAPACITY_MB = 256;

const schema = z.object({
  HOST: z.string().min(1).default('127.0.0.1'),
  PORT: wholeNumber(0, 65535).default(3000),
  DATA_DIR: z.string().min(1).default('./scratch'),
  DATABASE_URL: z
    .string()
    .regex(/^postgres(ql)?:\/\//, 'must begin with postgres:// or postgresql://')
    .optional(),
  /** Where statuses are kept between reads, for all API processes together; unset: in the memory of each. */
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
  PDF_ENGINE: z.enum(PDF_ENGINES, { error: `must be one of ${PDF_ENGINES.join(', ')}` }).default('pdf-to-img'),
  CAPACITY_CPU: wholeNumber(1, 1024).default(availableParallelism()),
  CAPACITY_MEMORY_MB: wholeNumber(SMALLEST_CAPACITY_MB, 16_777_216).optional(),
  /** Uploads are refused for a while when more jobs than this wait, or the store has less room. */
  MAX_QUEUED_JOBS: wholeNumber(1, 1_000_000_000).default(10_000),
  MIN_FREE_MB: wholeNumber(0, 1_000_000_000).default(1024),
  /** A module of own tasks. */
  TASKS: z.string().min(1).optional(),
  SHUTDOWN_GRACE_SECONDS: wholeNumber(0, 3600).default(20),
  LOG_LEVEL: z.enum(LOG_LEVELS, { error: `must be one of ${LOG_LEVELS.join(', ')}` }).default('info'),
});

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
        .map(({ path: [name], message }) => `${String(name)}=${JSON.stringify(set[String(name)])}: ${message}`)
        .join('; '),
    );
  }
  const dataDir = path.resolve(parsed.data.DATA_DIR);
  const tasks = parsed.data.TASKS;
  return {
    ...parsed.data,
    CAPACITY_MEMORY_MB: parsed.data.CAPACITY_MEMORY_MB ?? defaultCapacityMb(CONVERTER_MB),
    DATA_DIR: dataDir,
    STORE_DIR: path.join(dataDir, 'store'),
    TASKS: tasks === undefined ? undefined : path.resolve(tasks),
  };
}

/** CAPACITY_MEMORY_MB for a converter that shares its machine with all the rest. */
export function sharedCapacityMb({ CAPACITY_MEMORY_MB }: NodeJS.ProcessEnv): string {
  return CAPACITY_MEMORY_MB || String(defaultCapacityMb(CONVERTER_MB + LOCAL_MB));
}

/** The machine's memory, or the container's, less what is no sandbox; the smallest class where that leaves nothing. */
function defaultCapacityMb(othersMb: number): number {
  const memoryMb = Math.floor(Math.min(totalmem(), process.constrainedMemory() || Infinity) / 2 ** 20);
  return Math.max(SMALLEST_CAPACITY_MB, memoryMb - othersMb);
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
export function exitWithReason({ message }: Error): never {
  process.stderr.write(`sheetmill: ${message}\n`);
  process.exit(1);
}

/** The processes that are started apart have no embedded Postgres. */
export function requireDatabaseUrl({ DATABASE_URL }: Config): string {
  return (
    DATABASE_URL ?? exitWithReason(new Error('DATABASE_URL is not set: it names the Postgres that all processes share'))
  );
}
