#!/usr/bin/env node
import { constants } from 'node:os';
import packageJson from '../package.json' with { type: 'json' };
import { UsageError } from './arguments.ts';
import * as convert from './convert.ts';
import { exitCodeOf } from './failures.ts';
import * as serve from './serve.ts';
import * as status from './status.ts';
import * as verify from './verify.ts';

/** The command line: finds the command, runs it, and turns what it throws into one line and an exit code. */

interface Command {
  help: string;
  /** Gives the exit code. Throws soon after the signal, and leaves nothing behind. */
  run(args: string[], signal: AbortSignal): Promise<number>;
}

const COMMANDS: Record<string, Command> = { convert, status, serve, verify };

const HELP = `Usage: sheetmill COMMAND

  convert FILE... --out DIR   PDFs, PNGs and JPEGs into PNG pages below 3500 x 3500
  status ID                   what became of an upload or a job
  serve                       the service itself, as npm start runs it
  verify URL                  whether a deployment works, end to end

sheetmill COMMAND --help says more. sheetmill --version says which version this is.

Exit codes: 0 done; 1 some files, or checks, failed; 2 the command was written wrongly; 3 the service cannot be reached,
or did not start; 4 it refuses the key; 130 Ctrl-C, and 128 plus its number for any other signal.
`;

const [name, ...args] = process.argv.slice(2);
const interrupted = new AbortController();
let signalCode: number | undefined;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => interrupt(signal));
// Whoever read the output has gone, as `head` does.
process.stdout.on('error', () => interrupt('SIGPIPE'));

process.exitCode = await main().catch(explain);

async function main(): Promise<number> {
  if (name === '--version') return print(`${packageJson.version}\n`);
  if (name === '--help' || name === '-h' || name === 'help') return print(COMMANDS[args[0] ?? '']?.help ?? HELP);
  if (name === undefined) throw new UsageError('say what to do');
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (command === undefined) throw new UsageError(`there is no command ${JSON.stringify(name)}`);
  const options = args.includes('--') ? args.slice(0, args.indexOf('--')) : args;
  if (options.includes('--help') || options.includes('-h')) return print(command.help);
  return command.run(args, interrupted.signal);
}

function print(text: string): number {
  process.stdout.write(text);
  return 0;
}

function interrupt(signal: NodeJS.Signals): void {
  signalCode ??= 128 + constants.signals[signal];
  interrupted.abort(new Error('interrupted'));
}

function explain(error: Error): number {
  if (signalCode !== undefined) {
    process.stderr.write('sheetmill: interrupted\n');
    return signalCode;
  }
  const hint = error instanceof UsageError ? `; see sheetmill ${name && name in COMMANDS ? `${name} ` : ''}--help` : '';
  process.stderr.write(`sheetmill: ${error.message}${hint}\n`);
  return exitCodeOf(error);
}
