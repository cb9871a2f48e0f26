import { type ParseArgsOptionsConfig, parseArgs } from 'node:util';

/** The command was written wrongly. */
export class UsageError extends Error {}

/** What every command knows that talks to a service. */
export const SERVICE_OPTIONS = {
  url: { type: 'string' },
  key: { type: 'string' },
  json: { type: 'boolean', default: false },
} as const satisfies ParseArgsOptionsConfig;

/** Reads the options and what else was given. Throws UsageError with one line. */
export function readArguments<Options extends ParseArgsOptionsConfig>(args: string[], options: Options) {
  try {
    return parseArgs({ args, options, allowPositionals: true, strict: true });
  } catch (error) {
    // Node explains at length how to pass what begins with a dash.
    throw new UsageError((error as Error).message.split('. ')[0]?.split('\n')[0]);
  }
}

/** Where the service is, as an option or the environment says; undefined where neither does. */
export function readUrl(option: string | undefined): string | undefined {
  const url = option ?? (process.env.SHEETMILL_URL || undefined);
  if (url !== undefined && !/^https?:$/.test(URL.parse(url)?.protocol ?? '')) {
    throw new UsageError(`${JSON.stringify(url)} is no URL of a service, such as http://127.0.0.1:3000`);
  }
  return url;
}

export function readKey(option: string | undefined): string | undefined {
  return option ?? (process.env.SHEETMILL_KEY || undefined);
}

/** A whole number, or undefined where the option was not given. */
export function readNumber(name: string, text: string | undefined, least: number, most: number): number | undefined {
  if (text === undefined) return undefined;
  const number = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (number >= least && number <= most) return number;
  throw new UsageError(`--${name} ${text}: must be a whole number from ${least} to ${most}`);
}

/** One of the choices, or undefined where the option was not given. */
export function readChoice<Choice extends string>(
  name: string,
  text: string | undefined,
  choices: readonly Choice[],
): Choice | undefined {
  if (text === undefined) return undefined;
  const choice = choices.find((one) => one === text);
  if (choice !== undefined) return choice;
  throw new UsageError(`--${name} ${text}: must be ${choices.join(' or ')}`);
}
