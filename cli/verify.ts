import { readArguments, readKey, readUrl, SERVICE_OPTIONS, UsageError } from './arguments.ts';
import { createClient, UnreachableError } from './client.ts';

export const help = `Usage: sheetmill verify URL [options]

Checks a deployment end to end: uploads a PDF and a PNG of its own, compares the pages with what they must be, runs and
cancels jobs, follows the stream, receives webhooks, and removes its uploads again. Takes about half a minute.

  --key KEY              the deployment's API key; $SHEETMILL_KEY where it is not given
  --webhook-host HOST    the name under which the deployment reaches this machine; 127.0.0.1 by default
  --webhook-secret S     verifies the signatures of webhooks, too
  --json                 one JSON document on standard output, and nothing else there

Exit code 0 if nothing failed, 1 if something did; others as in sheetmill --help.
`;

const OPTIONS = {
  ...SERVICE_OPTIONS,
  'webhook-host': { type: 'string', default: '127.0.0.1' },
  'webhook-secret': { type: 'string' },
} as const;
const CHECK_MS = 90_000;
const CLEAN_UP_MS = 10_000;

interface Result {
  check: string;
  outcome: 'passed' | 'failed' | 'skipped';
  seconds: number;
  detail: string;
}

export async function run(args: string[], signal: AbortSignal): Promise<number> {
  const { values, positionals } = readArguments(args, OPTIONS);
  if (positionals.length > 1) throw new UsageError('give one URL');
  const url = readUrl(positionals[0] ?? values.url);
  if (url === undefined) throw new UsageError('give the URL of the deployment');
  const key = readKey(values.key);
  await createClient({ url, key, signal }).health.live().catch(onlyUnreachable);

  // Only now: sharp takes a while to load.
  const [{ CHECKS, remove, Skipped }, { makeSamples }] = await Promise.all([
    import('./verify/checks.ts'),
    import('./verify/samples.ts'),
  ]);
  const site = {
    url,
    key,
    webhookHost: values['webhook-host'],
    webhookSecret: values['webhook-secret'],
    samples: await makeSamples(),
    made: new Set<string>(),
  };
  const results: Result[] = [];
  try {
    for (const [check, run] of Object.entries(CHECKS)) {
      const began = performance.now();
      const limit = AbortSignal.any([signal, AbortSignal.timeout(CHECK_MS)]);
      const ended = await run(site, createClient({ url, key, signal: limit }), limit).then(
        (detail) => ({ outcome: 'passed' as const, detail }),
        (error: Error) => ({
          outcome: error instanceof Skipped ? ('skipped' as const) : ('failed' as const),
          detail: limit.aborted ? `not within ${CHECK_MS / 1000} s` : error.message,
        }),
      );
      signal.throwIfAborted();
      const result = { check, seconds: Math.round((performance.now() - began) / 100) / 10, ...ended };
      results.push(result);
      if (!values.json) process.stdout.write(lineOf(result));
    }
  } finally {
    const client = createClient({ url, key, signal: AbortSignal.timeout(CLEAN_UP_MS) });
    for (const id of site.made) await remove(client, id).catch(() => undefined);
  }
  const count = (wanted: Result['outcome']) => results.filter(({ outcome }) => outcome === wanted).length;
  const counts = { passed: count('passed'), failed: count('failed'), skipped: count('skipped') };
  process.stdout.write(
    values.json
      ? `${JSON.stringify({ url, ...counts, checks: results }, undefined, 2)}\n`
      : `${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped\n`,
  );
  return counts.failed === 0 ? 0 : 1;
}

/** What else is wrong with its health is for the first check to say. */
function onlyUnreachable(error: unknown): void {
  if (error instanceof UnreachableError) throw error;
}

function lineOf({ check, outcome, seconds, detail }: Result): string {
  return `${outcome.padEnd(8)} ${check.padEnd(14)} ${seconds.toFixed(1).padStart(5)} s  ${detail}\n`;
}
