import { type ParseArgsOptionsConfig, parseArgs } from 'node:util';
import { messageOf, UsageError } from './errors.ts';

/** The options of every command that calls a service. */
export const SERVICE_OPTIONS = {
  url: { type: 'string' },
  key: { type: 'string' },
  json: { type: 'boolean', default: false },
} as const satisfies ParseArgsOptionsConfig;

/** Reads options and positional arguments. Throws UsageError with one line. */
export function readArguments<Options extends ParseArgsOptionsConfig>(args: string[], options: Options) {
  try {
    return parseArgs({ args, options, allowPositionals: true, strict: true });
  } catch (error) {
    // Node adds sentences about arguments that begin with a dash.
    throw new UsageError(messageOf(error).split('. ')[0]?.split('\n')[0]);
  }
}

/** Reads the options of a command that has no positional arguments. */
export function readOptions<Options extends ParseArgsOptionsConfig>(args: string[], options: Options) {
  const { values, positionals } = readArguments(args, options);
  if (positionals.length > 0) throw new UsageError(`unexpected argument ${JSON.stringify(positionals[0])}`);
  return values;
}

/** The URL of the service, from the option or the environment; undefined if neither is set. */
export function readUrl(option: string | undefined): string | undefined {
  const url = option ?? (process.env.SHEETMILL_URL || undefined);
  if (url !== undefined && !/^https?:$/.test(URL.parse(url)?.protocol ?? '')) {
    throw new UsageError(`${JSON.stringify(url)} is not a URL of a service, such as http://127.0.0.1:3000`);
  }
  return url;
}

export function readKey(option: string | undefined): string | undefined {
  return option ?? (process.env.SHEETMILL_KEY || undefined);
}

/** The number in an option; undefined if the option is missing. */
export function readNumber(name: string, text: string | undefined, min: number, max: number): number | undefined {
  if (text === undefined) return undefined;
  const number = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (number >= min && number <= max) return number;
  throw new UsageError(`--${name} ${text}: must be a whole number from ${min} to ${max}`);
}

/** The choice in an option; undefined if the option is missing. */
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
