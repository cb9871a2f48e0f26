import { availableParallelism, totalmem } from 'node:os';
import path from 'node:path';
import { z } from 'zod';

function wholeNumber(smallest: number, largest: number) {
  const error = `must be a whole number from ${smallest} to ${largest}`;
  return z.coerce.number({ error }).int({ error }).min(smallest, { error }).max(largest, { error });
}

const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;

/** What the processes have besides sandboxes (converter, and locally API and Postgres) and the system's own share. */
const MEMORY_KEPT_BACK_MB = 1024;

const schema = z.object({
  HOST: z.string().min(1).default('127.0.0.1'),
  PORT: wholeNumber(0, 65535).default(3000),
  DATA_DIR: z.string().min(1).default('./scratch'),
  DATABASE_URL: z
    .string()
    .regex(/^postgres(ql)?:\/\//, 'must begin with postgres:// or postgresql://')
    .optional(),
  MAX_UPLOAD_MB: wholeNumber(1, 1_000_000).default(2048),
  MAX_PAGES: wholeNumber(1, 1_000_000).default(5000),
  MAX_PIXELS: wholeNumber(1, 100_000_000_000).default(1_000_000_000),
  CAPACITY_CPU: wholeNumber(1, 1024).default(availableParallelism()),
  CAPACITY_MEMORY_MB: wholeNumber(256, 16_777_216).default(
    Math.max(
      512,
      Math.floor(Math.min(totalmem(), process.constrainedMemory() || Infinity) / 2 ** 20) - MEMORY_KEPT_BACK_MB,
    ),
  ),
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
    DATA_DIR: dataDir,
    STORE_DIR: path.join(dataDir, 'store'),
    TASKS: tasks === undefined ? undefined : path.resolve(tasks),
  };
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
