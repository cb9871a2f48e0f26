import { createHash, randomUUID } from 'node:crypto';
import { buffer } from 'node:stream/consumers';
import { Webhook } from 'standardwebhooks';
import {
  type Client,
  collect,
  createClient,
  type NewJob,
  ProblemError,
  type Source,
  type UploadFields,
} from '../client.ts';
import { startReceiver } from './receiver.ts';
import { comparePage, DPI, EXPECTED, makeLongPdf, type makeSamples } from './samples.ts';

/** What the checks know of the deployment, and of each other. */
interface Site {
  url: string;
  key: string | undefined;
  webhookHost: string;
  webhookSecret: string | undefined;
  samples: Awaited<ReturnType<typeof makeSamples>>;
  /** Of the samples, once they were sent. */
  uploadId?: string;
  /** Uploads that are there because of us. */
  made: Set<string>;
}

/** Does its part, with a client that ends at `signal`, and gives what is worth knowing. Throws what is wrong, or Skipped. */
type Check = (site: Site, client: Client, signal: AbortSignal) => Promise<string>;

/** A check that does not apply to the deployment. */
export class Skipped extends Error {}

export const CHECKS: Record<string, Check> = {
  async health(_site, client) {
    await client.health.live();
    await client.health.ready();
    const { converters } = await client.system();
    if (converters.length === 0) throw new Error('no converter is alive');
    return `${converters.length} converter${converters.length === 1 ? '' : 's'}`;
  },

  async keys({ url, key }) {
    if (key === undefined) throw new Skipped('no --key was given');
    await expectProblem(createClient({ url }).uploads.list().next(), 401);
    await expectProblem(
      createClient({ url, key: `${key}x` })
        .uploads.list()
        .next(),
      401,
    );
    return 'none and a wrong one are refused';
  },

  async upload(site, client) {
    const { pdf, png } = site.samples;
    const began = performance.now();
    const upload = await send(site, client, [fileOf(pdf, 'verify.pdf'), fileOf(png, 'verify.png')], { dpi: DPI });
    site.uploadId = upload.id;
    return `${upload.id} after ${Math.round(performance.now() - began)} ms`;
  },

  async conversion(site, client) {
    const { status, progress, error } = await client.uploads.done(uploadOf(site));
    if (status !== 'completed') throw new Error(`the upload is ${status}: ${error?.message}`);
    expectSame('pages_done', progress.pages_done, EXPECTED.length);
    expectSame('pages_total', progress.pages_total, EXPECTED.length);
    return `${progress.pages_done} pages`;
  },

  async waiting(site, client) {
    const { png } = site.samples;
    const { id } = await send(site, client, fileOf(png, 'wait.png'));
    const { done } = await client.uploads.status(id, { wait: 30 });
    if (!done) throw new Error('Prefer: wait=30 was answered before the upload was done');
    return 'Prefer: wait=30 is answered when it is done';
  },

  async pages(site, client) {
    const id = uploadOf(site);
    const items = await collect(client.uploads.pages(id));
    expectSame('order', items.map(placeOf).join(' '), EXPECTED.map(placeOf).join(' '));
    for (const [index, expected] of EXPECTED.entries()) {
      const { original, page } = expected;
      const { width, height, bytes, reduced } = items[index] as (typeof items)[number];
      const png = await buffer(await client.uploads.page(id, original, page).stream());
      await comparePage(png, expected);
      expectSame(
        `${placeOf(expected)} width, height and bytes`,
        `${[width, height, bytes]}`,
        `${[expected.width, expected.height, png.length]}`,
      );
      expectSame(`${placeOf(expected)} reduced`, reduced !== null, expected.reduced);
    }
    return 'sizes, order and colours are right';
  },

  async originals(site, client) {
    const id = uploadOf(site);
    const { items } = await client.uploads.originals(id);
    expectSame('originals', items.length, 2);
    for (const [index, sent] of [site.samples.pdf, site.samples.png].entries()) {
      const stored = await buffer(await client.uploads.original(id, index + 1).stream());
      if (!stored.equals(sent)) throw new Error(`original ${index + 1} is not what was sent`);
      expectSame(`sha256 of original ${index + 1}`, items[index]?.sha256, sha256(sent));
    }
    return 'byte for byte what was sent';
  },

  async archive(site, client) {
    const zip = await buffer(await client.uploads.archive(uploadOf(site)).stream());
    const end = zip.lastIndexOf('PK\x05\x06', undefined, 'latin1');
    if (end < 0) throw new Error('archive.zip is no zip');
    expectSame('files in archive.zip', zip.readUInt16LE(end + 10), EXPECTED.length);
    return `${zip.length} bytes`;
  },

  async refusals(site, client) {
    await expectProblem(send(site, client, fileOf(Buffer.from('only text'), 'text.pdf')), 415);
    await expectProblem(client.uploads.get(randomUUID()), 404);
    const { id } = await send(site, client, fileOf(site.samples.pdf.subarray(0, 64), 'broken.pdf'));
    const { status, error } = await client.uploads.done(id);
    expectSame('the status of a broken file', status, 'failed');
    expectSame('its error', error?.code, 'corrupt_file');
    return 'what is no document, and what is broken';
  },

  async jobs(site, client) {
    const upload_id = uploadOf(site);
    const name = randomUUID();
    const first = `verify-${name}-checksum`;
    const batch = await client.jobs.batch([
      { type: 'archive', job_id: `verify-${name}-archive`, payload: { upload_id }, depends_on: [first] },
      { type: 'checksum', job_id: first, payload: { upload_id, original: 1 } },
    ]);
    const [archive, checksum] = await Promise.all(batch.map(({ job_id }) => client.jobs.done(job_id)));
    for (const job of [checksum, archive]) {
      if (job?.status !== 'completed') throw new Error(`${job?.type} is ${job?.status}: ${job?.error?.message}`);
    }
    expectSame('the checksum', checksum?.result?.digest, sha256(site.samples.pdf));
    expectSame('pages in the archive', archive?.result?.pages, EXPECTED.length);
    if (Date.parse(archive?.started_at ?? '') < Date.parse(checksum?.finished_at ?? '')) {
      throw new Error('the job started before the one that it depends on was finished');
    }
    return 'checksum, then archive';
  },

  async 'job cancel'(site, client) {
    const upload_id = uploadOf(site);
    const name = `verify-${randomUUID()}`;
    const run_at = new Date(Date.now() + 3_600_000).toISOString();
    await client.jobs.batch([
      { type: 'checksum', job_id: name, payload: { upload_id }, run_at },
      { type: 'checksum', job_id: `${name}-after`, payload: { upload_id }, depends_on: [name] },
    ]);
    expectSame('the status', (await client.jobs.cancel(name)).status, 'cancelled');
    const { status, error } = await client.jobs.get(`${name}-after`);
    expectSame('the dependant', `${status} ${error?.code}`, 'failed dependency_failed');
    await expectProblem(client.jobs.cancel(name), 409);
    return 'and what depends on it fails';
  },

  async stream(site, client, signal) {
    const upload_id = uploadOf(site);
    const seen = new Set<number>();
    for await (const { id, kind, status } of client.jobs.stream({ upload_id, after: 0, signal })) {
      if (seen.has(id)) throw new Error(`event ${id} came twice`);
      seen.add(id);
      if (kind === 'upload' && status === 'completed') return 'the events of the upload, up to its end';
    }
    throw new Error('it ended');
  },

  async 'upload cancel'(site, client) {
    const { id } = await send(site, client, fileOf(makeLongPdf(), 'long.pdf'), { dpi: 600, priority: 'low' });
    expectSame('the status', (await client.uploads.cancel(id)).status, 'cancelled');
    const { status } = await client.uploads.retry(id);
    if (status !== 'queued' && status !== 'processing') throw new Error(`after a retry it is ${status}`);
    await client.uploads.delete(id);
    await expectProblem(client.uploads.get(id), 404);
    site.made.delete(id);
    return 'cancelled, retried, deleted while it was processed';
  },

  async webhook(site, client, signal) {
    const { webhookHost, webhookSecret, samples } = site;
    const receiver = await startReceiver(webhookHost);
    try {
      const upload = await send(site, client, fileOf(samples.png, 'hook.png'), notifying({}, receiver.url)).catch(
        skipForbidden,
      );
      const sent: NewJob = { type: 'checksum', payload: { upload_id: uploadOf(site) } };
      const job = await client.jobs.submit(notifying(sent, receiver.url));
      const expected = [
        ['upload.completed', upload.id],
        ['job.completed', job.job_id],
      ] as const;
      for (const [type, id] of expected) {
        const { headers, body } = await receiver.arrived((delivery) => {
          const document = JSON.parse(delivery.body);
          const found = document.type === type && (document.data?.id ?? document.data?.job_id) === id;
          return found ? delivery : undefined;
        }, signal);
        for (const name of ['webhook-id', 'webhook-timestamp', 'webhook-signature']) {
          if (headers[name] === undefined) throw new Error(`${type} came without ${name}`);
        }
        if (webhookSecret !== undefined) new Webhook(webhookSecret).verify(body, headers as Record<string, string>);
      }
      return webhookSecret === undefined ? 'signatures not verified: no --webhook-secret' : 'with a good signature';
    } finally {
      await receiver.stop();
    }
  },

  async removal(site, client) {
    const count = site.made.size;
    if (count === 0) throw new Skipped('nothing is there');
    for (const id of site.made) {
      await remove(client, id);
      await expectProblem(client.uploads.get(id), 404);
      site.made.delete(id);
    }
    return `${count} uploads`;
  },
};

/** Also one that does not let itself be removed before it has ended. */
export async function remove(client: Client, id: string): Promise<void> {
  try {
    await client.uploads.delete(id);
  } catch (error) {
    if (!(error instanceof ProblemError && error.status === 409)) throw error;
    await client.uploads.done(id);
    await client.uploads.delete(id);
  }
}

function fileOf(bytes: Uint8Array<ArrayBuffer>, name: string): File {
  return new File([bytes], name);
}

async function send(site: Site, client: Client, files: Source | Source[], fields?: UploadFields) {
  const upload = await client.uploads.create(files, fields);
  site.made.add(upload.id);
  return upload;
}

function uploadOf({ uploadId }: Site): string {
  if (uploadId === undefined) throw new Error('there is no upload to look at');
  return uploadId;
}

function notifying<Wanted extends object>(wanted: Wanted, notify_url: string): Wanted {
  return { ...wanted, notify_url };
}

function skipForbidden(error: unknown): never {
  if (error instanceof ProblemError && error.code === 'forbidden_url') {
    throw new Skipped(`${error.detail}; name another with --webhook-host`);
  }
  throw error;
}

function placeOf({ original, page }: { original: number; page: number }): string {
  return `${original}/${page}`;
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

function expectSame(what: string, found: unknown, expected: unknown): void {
  if (found !== expected) throw new Error(`${what}: ${found}, not ${expected}`);
}

async function expectProblem(call: Promise<unknown>, status: number): Promise<void> {
  const error = await call.then(
    () => new Error('it was done'),
    (error) => error,
  );
  if (!(error instanceof ProblemError)) throw new Error(`a ${status} was expected: ${error.message}`);
  if (error.status !== status) throw new Error(`a ${status} was expected, not ${error.status}: ${error.detail}`);
}
