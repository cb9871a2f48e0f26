import { readArguments, readKey, readUrl, SERVICE_OPTIONS } from './arguments.ts';
import { type Client, collect, createClient, type JobDetail, type Upload } from './client.ts';
import { UsageError } from './errors.ts';
import { interruptSignal } from './interrupt.ts';

export const help = `Usage: sheetmill status ID [--url URL] [--key KEY] [--json]

Shows the status of an upload or a job.

  --url URL   the service; default $SHEETMILL_URL or http://127.0.0.1:3000
  --key KEY   the API key of the service; default $SHEETMILL_KEY
  --json      print the JSON document of the API

Exit code 0 if it is completed or not ended yet, 1 if it failed, was cancelled or does not exist; see sheetmill --help for
the others.
`;

const DEFAULT_URL = 'http://127.0.0.1:3000';
const UUID = /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/i;

export async function run(args: string[]): Promise<number> {
  const { values, positionals } = readArguments(args, SERVICE_OPTIONS);
  const [id] = positionals;
  if (id === undefined || positionals.length > 1) throw new UsageError('exactly one ID is required');
  const signal = interruptSignal();
  const client = createClient({ url: readUrl(values.url) ?? DEFAULT_URL, key: readKey(values.key), signal });
  // Unlike other calls this one is not repeated, so an unreachable service is reported at once.
  await client.health.live();
  const found = UUID.test(id) ? await readUpload(client, id) : await client.jobs.get(id);
  process.stdout.write(values.json ? `${JSON.stringify(found, undefined, 2)}\n` : linesOf(found));
  return found.status === 'failed' || found.status === 'cancelled' ? 1 : 0;
}

/** An upload with all of its pages. */
async function readUpload({ uploads }: Client, id: string): Promise<Upload> {
  const upload = await uploads.get(id);
  if (upload.pages_next_cursor === null) return upload;
  return { ...upload, pages: await collect(uploads.pages(id)), pages_next_cursor: null };
}

function linesOf(found: Upload | JobDetail): string {
  const { status, created_at, finished_at, error } = found;
  const lines: [string, string | null][] = [
    ['status', status],
    ['created', created_at],
    ['finished', finished_at],
    ['error', error && `${error.code}: ${error.message}`],
    ...('pages' in found ? uploadLines(found) : jobLines(found)),
  ];
  return lines.map(([name, value]) => (value === null ? '' : `${`${name}:`.padEnd(10)} ${value}\n`)).join('');
}

function uploadLines({ progress, originals, pages }: Upload): [string, string | null][] {
  return [
    ['pages', `${progress.pages_done} of ${progress.pages_total ?? '?'}`],
    ...originals.map(({ original, filename, media_type, path, error }): [string, string] => [
      'original',
      `${original} ${filename ?? ''} ${media_type} ${path}${error ? ` ${error.code}: ${error.message}` : ''}`,
    ]),
    ...pages.map(({ original, page, width, height, path, error }): [string, string] => [
      'page',
      `${original}/${page} ${error ? `${error.code}: ${error.message}` : `${width}x${height} ${path}`}`,
    ]),
  ];
}

function jobLines({ type, position_in_queue, attempts, result }: JobDetail): [string, string | null][] {
  return [
    ['type', type],
    ['position', position_in_queue === null ? null : String(position_in_queue)],
    ...attempts.map(({ attempt, status, converter, error }): [string, string] => [
      'attempt',
      `${attempt} ${status} on ${converter}${error ? ` ${error.code}: ${error.message}` : ''}`,
    ]),
    ['result', result && JSON.stringify(result)],
  ];
}
