#!/usr/bin/env node
import packageJson from '../package.json' with { type: 'json' };
import { exitCodeOf, UsageError } from './errors.ts';
import { interrupt, interruptCode } from './interrupt.ts';

/** The command line: runs a command and turns its error into one line and an exit code. */

interface Command {
  help: string;
  /** Returns the exit code. Throws soon after a signal, with nothing left behind. */
  run(args: string[]): Promise<number>;
}

/** Each command is loaded when it runs: `serve` must start fast. */
const COMMANDS: Record<string, () => Promise<Command>> = {
  convert: () => import('./convert.ts'),
  status: () => import('./status.ts'),
  verify: () => import('./verify.ts'),
  serve: () => import('./serve.ts'),
  migrate: () => import('./migrate.ts'),
  audit: () => import('./audit.ts'),
};

const HELP = `Usage: sheetmill COMMAND

  convert FILE... --out DIR   convert PDFs, PNGs and JPEGs to PNG pages below 3500 x 3500
  status ID                   show the status of an upload or a job
  verify URL                  check a deployment end to end
  serve                       run the whole service on this machine
  migrate                     bring the database up to date
  audit                       check the database for inconsistencies

Run sheetmill COMMAND --help for the options of a command, and sheetmill --version for the version.

Exit codes: 0 success; 1 some files or checks failed; 2 invalid arguments; 3 the service cannot be reached or did not
start; 4 the service refused the key; 130 Ctrl-C; 128 plus the number of any other signal.
`;

const [name, ...args] = process.argv.slice(2);
process.stdout.on('error', () => interrupt('SIGPIPE'));
process.exitCode = await main().catch(explain);

async function main(): Promise<number> {
  if (name === '--version') return print(`${packageJson.version}\n`);
  if (name === '--help' || name === '-h' || name === 'help') return print((await findCommand(args[0]))?.help ?? HELP);
  if (name === undefined) throw new UsageError('no command given');
  const command = await findCommand(name);
  if (command === undefined) throw new UsageError(`unknown command ${JSON.stringify(name)}`);
  const options = args.includes('--') ? args.slice(0, args.indexOf('--')) : args;
  if (options.includes('--help') || options.includes('-h')) return print(command.help);
  return command.run(args);
}

async function findCommand(name = ''): Promise<Command | undefined> {
  return Object.hasOwn(COMMANDS, name) ? COMMANDS[name]?.() : undefined;
}

function print(text: string): number {
  process.stdout.write(text);
  return 0;
}

function explain(error: Error): number {
  const code = interruptCode();
  if (code !== undefined) {
    process.stderr.write('sheetmill: interrupted\n');
    return code;
  }
  const hint = error instanceof UsageError ? `; see sheetmill ${name && name in COMMANDS ? `${name} ` : ''}--help` : '';
  process.stderr.write(`sheetmill: ${error.message}${hint}\n`);
  return exitCodeOf(error);
}
