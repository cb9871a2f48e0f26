import { createHash, randomUUID } from 'node:crypto';
import { on, once } from 'node:events';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import { isIPv6 } from 'node:net';
import { buffer, text } from 'node:stream/consumers';
import { Webhook } from 'standardwebhooks';
import { readArguments, readKey, readUrl, SERVICE_OPTIONS } from './arguments.ts';
import { type Client, collect, createClient, type UploadFields } from './client.ts';
import { messageOf, ProblemError, UnreachableError, UsageError } from './errors.ts';
import { interruptSignal } from './interrupt.ts';

export const help = `Usage: sheetmill verify URL [options]

Checks a deployment end to end: converts a PDF and a PNG, checks the pages, runs and cancels jobs, follows the event
stream, receives webhooks, and deletes its uploads. Takes about half a minute.

  --key KEY              the API key of the deployment; default $SHEETMILL_KEY
  --webhook-host HOST    the name or address under which the deployment reaches this machine; default 127.0.0.1
  --webhook-secret S     verify the signatures of webhooks with this secret
  --json                 print one JSON document to standard output

Exit code 0 if no check failed, 1 otherwise; see sheetmill --help for the others.
`;

const OPTIONS = {
  ...SERVICE_OPTIONS,
  'webhook-host': { type: 'string', default: '127.0.0.1' },
  'webhook-secret': { type: 'string' },
} as const;
const CHECK_TIMEOUT_MS = 90_000;
const CLEAN_UP_MS = 10_000;
const LOOPBACK = '127.0.0.1';

interface Result {
  check: string;
  outcome: 'passed' | 'failed' | 'skipped';
  seconds: number;
  detail: string;
}

export async function run(args: string[]): Promise<number> {
  const { values, positionals } = readArguments(args, OPTIONS);
  const url = readUrl(positionals[0] ?? values.url);
  if (url === undefined || positionals.length > 1) throw new UsageError('exactly one URL is required');
  const signal = interruptSignal();
  const deployment = new Deployment({
    url,
    key: readKey(values.key),
    webhookHost: values['webhook-host'],
    webhookSecret: values['webhook-secret'],
  });
  await deployment.reach(signal);

  const results: Result[] = [];
  try {
    for (const name of Object.keys(CHECKS)) {
      const result = await runCheck(name, deployment, signal);
      results.push(result);
      if (!values.json) process.stdout.write(lineOf(result));
    }
  } finally {
    await deployment.cleanUp();
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

async function runCheck(check: string, deployment: Deployment, signal: AbortSignal): Promise<Result> {
  const began = performance.now();
  const limit = AbortSignal.any([signal, AbortSignal.timeout(CHECK_TIMEOUT_MS)]);
  const result = (outcome: Result['outcome'], detail = ''): Result => {
    const seconds = Math.round((performance.now() - began) / 100) / 10;
    return { check, outcome, seconds, detail };
  };
  try {
    return result('passed', await CHECKS[check]?.(deployment, deployment.client(limit), limit));
  } catch (error) {
    signal.throwIfAborted();
    const detail = limit.aborted ? `timeout after ${CHECK_TIMEOUT_MS / 1000} s` : messageOf(error);
    return result(error instanceof Skipped ? 'skipped' : 'failed', detail);
  }
}

function lineOf({ check, outcome, seconds, detail }: Result): string {
  return `${outcome.padEnd(8)} ${check.padEnd(12)} ${seconds.toFixed(1).padStart(5)} s  ${detail}\n`;
}

interface Target {
  url: string;
  key: string | undefined;
  /** The host under which the deployment reaches this machine. */
  webhookHost: string;
  webhookSecret: string | undefined;
}

/** The deployment under test and the uploads that the checks leave there. */
class Deployment {
  readonly target: Target;
  readonly #uploads = new Set<string>();

  constructor(target: Target) {
    this.target = target;
  }

  client(signal?: AbortSignal): Client {
    const { url, key } = this.target;
    return createClient({ url, key, signal });
  }

  /** Throws UnreachableError; the first check reports any other error. */
  async reach(signal: AbortSignal): Promise<void> {
    await this.client(signal)
      .health.live()
      .catch((error) => {
        if (error instanceof UnreachableError) throw error;
      });
  }

  async upload(client: Client, files: File[], fields?: UploadFields): Promise<string> {
    const { id } = await client.uploads.create(files, fields);
    this.#uploads.add(id);
    return id;
  }

  /** The first upload, which the check `conversion` makes. */
  get firstUpload(): string {
    const [id] = this.#uploads;
    if (id === undefined) throw new Error('no upload to check');
    return id;
  }

  /** Deletes all uploads and returns their ids. */
  async deleteUploads({ uploads }: Client): Promise<string[]> {
    const ids = [...this.#uploads];
    const deleted = ids.map(async (id) => {
      // An upload cannot be deleted while it is processed.
      await uploads.done(id);
      await uploads.delete(id);
      this.#uploads.delete(id);
    });
    await Promise.all(deleted);
    return ids;
  }

  /** Deletes the uploads of a failed or interrupted run, if the deployment still allows it. */
  async cleanUp(): Promise<void> {
    await this.deleteUploads(this.client(AbortSignal.timeout(CLEAN_UP_MS))).catch(() => undefined);
  }
}

/** Resolves with a detail for the report. Throws Skipped, or the error that it found. The signal is its timeout. */
type Check = (deployment: Deployment, client: Client, signal: AbortSignal) => Promise<string>;

/** Thrown by a check that does not apply to the deployment. */
class Skipped extends Error {}

const CHECKS: Record<string, Check> = {
  health: checkHealth,
  keys: checkKeys,
  conversion: checkConversion,
  refusals: checkRefusals,
  jobs: checkJobs,
  stream: checkStream,
  webhooks: checkWebhooks,
  deletion: checkDeletion,
};

async function checkHealth(_deployment: Deployment, client: Client): Promise<string> {
  await client.health.live();
  await client.health.ready();
  const { converters } = await client.system();
  if (converters.length === 0) throw new Error('no converter is running');
  return `converters: ${converters.length}`;
}

async function checkKeys({ target: { url, key } }: Deployment): Promise<string> {
  if (key === undefined) throw new Skipped('no --key was given');
  for (const wrong of [undefined, `${key}x`]) {
    await expectProblem(401, createClient({ url, key: wrong }).uploads.list().next());
  }
  return 'a missing and a wrong key are refused';
}

/** The resolution of the samples: two pixels for each point. */
const DPI = 144;
const PDF = makePdf([200, 300], [300, 200], [2_000, 1_000]);
/** A green PNG of 60x40 pixels. */
const PNG = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAADwAAAAoCAMAAACVZWnNAAAAA1BMVEUeoDwwqnPOAAAAGUlEQVRIx+3BMQEAAADCoPVPbQwfoAAAeBgJiAABJcSfhgAAAABJRU5ErkJggg==',
  'base64',
);
/** The last page of the PDF exceeds the maximum size at this resolution, so its resolution is lowered. */
const EXPECTED_PAGES = ['1/1 400x600', '1/2 600x400', '1/3 3499x1750 reduced', '2/1 60x40'];

async function checkConversion(deployment: Deployment, client: Client): Promise<string> {
  const began = performance.now();
  const id = await deployment.upload(client, [fileOf(PDF, 'verify.pdf'), fileOf(PNG, 'verify.png')], { dpi: DPI });
  const { status, error, originals } = await client.uploads.done(id);
  expectSame('the status of the upload', error?.message ?? status, 'completed');
  const ms = Math.round(performance.now() - began);

  const pages = await collect(client.uploads.pages(id));
  const found = pages.map((page) => {
    const size = `${page.original}/${page.page} ${page.width}x${page.height}`;
    return page.reduced === null ? size : `${size} reduced`;
  });
  expectSame('the pages', found.join(', '), EXPECTED_PAGES.join(', '));
  for (const { original, page, width, height, bytes } of pages) {
    const png = await buffer(await client.uploads.page(id, original, page).stream());
    expectSame(`the PNG of page ${original}/${page}`, describePng(png), `${width}x${height}, ${bytes} bytes`);
  }
  for (const [index, sent] of [PDF, PNG].entries()) {
    const stored = await buffer(await client.uploads.original(id, index + 1).stream());
    expectSame(`the bytes of original ${index + 1}`, sha256(stored), sha256(sent));
    expectSame(`the sha256 of original ${index + 1}`, originals[index]?.sha256, sha256(sent));
  }
  const zip = await buffer(await client.uploads.archive(id).stream());
  const end = zip.lastIndexOf('PK\x05\x06', undefined, 'latin1');
  expectSame('the number of files in archive.zip', end < 0 ? 'none' : zip.readUInt16LE(end + 10), pages.length);
  return `${pages.length} pages in ${ms} ms`;
}

async function checkRefusals(deployment: Deployment, client: Client): Promise<string> {
  await expectProblem(415, deployment.upload(client, [fileOf(Buffer.from('only text'), 'text.pdf')]));
  await expectProblem(404, client.uploads.get(randomUUID()));
  const id = await deployment.upload(client, [fileOf(PDF.subarray(0, 64), 'broken.pdf')]);
  expectSame('the error of a corrupt file', (await client.uploads.done(id)).error?.code, 'corrupt_file');
  return 'unsupported and corrupt files are refused';
}

async function checkJobs({ firstUpload: upload_id }: Deployment, client: Client): Promise<string> {
  const id = `verify-${randomUUID()}`;
  const run_at = new Date(Date.now() + 3_600_000).toISOString();
  await client.jobs.batch([
    { type: 'archive', job_id: `${id}-archive`, payload: { upload_id }, depends_on: [`${id}-checksum`] },
    { type: 'checksum', job_id: `${id}-checksum`, payload: { upload_id, original: 1 } },
    { type: 'checksum', job_id: `${id}-cancelled`, payload: { upload_id }, run_at },
    { type: 'checksum', job_id: `${id}-dependant`, payload: { upload_id }, depends_on: [`${id}-cancelled`] },
  ]);
  const archive = await client.jobs.done(`${id}-archive`);
  const checksum = await client.jobs.get(`${id}-checksum`);
  expectSame('the status of the archive', archive.error?.message ?? archive.status, 'completed');
  expectSame('the checksum', checksum.result?.digest, sha256(PDF));
  if (Date.parse(archive.started_at ?? '') < Date.parse(checksum.finished_at ?? '')) {
    throw new Error('a job started before its dependency completed');
  }
  expectSame('the status of a cancelled job', (await client.jobs.cancel(`${id}-cancelled`)).status, 'cancelled');
  const dependant = await client.jobs.get(`${id}-dependant`);
  expectSame('the error of its dependant', dependant.error?.code, 'dependency_failed');
  return 'dependencies are respected, and cancelling works';
}

async function checkStream({ firstUpload: upload_id }: Deployment, client: Client): Promise<string> {
  for await (const { kind, status } of client.jobs.stream({ upload_id, after: 0 })) {
    if (kind === 'upload' && status === 'completed') break;
  }
  return 'the events of the upload arrived';
}

async function checkWebhooks(deployment: Deployment, client: Client, signal: AbortSignal): Promise<string> {
  const { webhookHost, webhookSecret } = deployment.target;
  const path = `/${randomUUID()}`;
  const server = createServer();
  const requests = on(server, 'request', { signal });
  server.listen(0, webhookHost === LOOPBACK ? LOOPBACK : undefined);
  await once(server, 'listening');
  try {
    const notify_url = `http://${isIPv6(webhookHost) ? `[${webhookHost}]` : webhookHost}:${portOf(server)}${path}`;
    const id = await deployment.upload(client, [fileOf(PNG, 'hook.png')], { notify_url }).catch(skipForbidden);
    const payload = { upload_id: deployment.firstUpload };
    const { job_id } = await client.jobs.submit({ type: 'checksum', payload, notify_url });
    const missing = new Set([`upload.completed ${id}`, `job.completed ${job_id}`]);
    for await (const [request, response] of requests) {
      const isOurs = request.url === path;
      if (isOurs) missing.delete(await readWebhook(request, webhookSecret));
      response.writeHead(isOurs ? 204 : 404).end();
      if (missing.size === 0) break;
    }
    return webhookSecret === undefined ? 'signatures not verified: no --webhook-secret' : 'signatures are valid';
  } finally {
    server.close();
    server.closeAllConnections();
  }
}

/** The type of a webhook and the id in it. Throws if a header is missing or the signature is wrong. */
async function readWebhook(request: IncomingMessage, secret: string | undefined): Promise<string> {
  const body = await text(request);
  const headers: Record<string, string> = {};
  for (const name of ['webhook-id', 'webhook-timestamp', 'webhook-signature']) {
    const value = request.headers[name];
    if (typeof value !== 'string') throw new Error(`a webhook has no header ${name}`);
    headers[name] = value;
  }
  if (secret !== undefined) new Webhook(secret).verify(body, headers);
  const { type, data } = JSON.parse(body);
  return `${type} ${data.id ?? data.job_id}`;
}

async function checkDeletion(deployment: Deployment, client: Client): Promise<string> {
  const ids = await deployment.deleteUploads(client);
  if (ids.length === 0) throw new Skipped('no uploads to delete');
  for (const id of ids) await expectProblem(404, client.uploads.get(id));
  return `${ids.length} uploads deleted`;
}

function skipForbidden(error: unknown): never {
  if (error instanceof ProblemError && error.code === 'forbidden_url') {
    throw new Skipped(`${error.detail}; set another host with --webhook-host`);
  }
  throw error;
}

function expectSame(name: string, found: unknown, expected: unknown): void {
  if (found !== expected) throw new Error(`${name}: expected ${expected}, got ${found}`);
}

async function expectProblem(status: number, call: Promise<unknown>): Promise<void> {
  const found = await call.then(
    () => 'success',
    (error) => (error instanceof ProblemError ? error.status : messageOf(error)),
  );
  expectSame('the answer to an invalid request', found, status);
}

function fileOf(bytes: Uint8Array<ArrayBuffer>, name: string): File {
  return new File([bytes], name);
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

function portOf(server: Server): number {
  const address = server.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

/** The size of a PNG, as its header and its length say. */
function describePng(png: Buffer): string {
  if (png.toString('latin1', 1, 4) !== 'PNG') return 'not a PNG';
  return `${png.readUInt32BE(16)}x${png.readUInt32BE(20)}, ${png.length} bytes`;
}

/** A PDF of empty pages with these sizes in points. */
function makePdf(...pages: [width: number, height: number][]): Buffer<ArrayBuffer> {
  const objects = [
    '<< /Type /Catalog /Pages 2 0 R >>',
    `<< /Type /Pages /Kids [${pages.map((_, index) => `${3 + index} 0 R`).join(' ')}] /Count ${pages.length} >>`,
    ...pages.map(([width, height]) => `<< /Type /Page /Parent 2 0 R /MediaBox [0 0 ${width} ${height}] >>`),
  ];
  let pdf = '%PDF-1.7\n';
  let table = `xref\n0 ${objects.length + 1}\n0000000000 65535 f \n`;
  for (const [index, object] of objects.entries()) {
    table += `${String(pdf.length).padStart(10, '0')} 00000 n \n`;
    pdf += `${index + 1} 0 obj\n${object}\nendobj\n`;
  }
  const trailer = `trailer\n<< /Size ${objects.length + 1} /Root 1 0 R >>\nstartxref\n${pdf.length}\n%%EOF\n`;
  return Buffer.from(pdf + table + trailer, 'latin1');
}
