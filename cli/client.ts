import { randomUUID } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { rename, rm } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as delay } from 'node:timers/promises';
import type { z } from 'zod';
import type { Answer } from '../api/client-types.ts';
import type { streamQuery } from '../api/events/requests.ts';
import type { jobList, jobsToRetry } from '../api/jobs/filters.ts';
import type { newJob } from '../api/jobs/requests.ts';
import type { scheduleRequest } from '../api/jobs/schedule-requests.ts';
import type { pageList, uploadFields, uploadList } from '../api/uploads/requests.ts';
import { type ClientOptions, Http } from './http.ts';
import { Multipart, type Source } from './multipart.ts';
import { followEvents } from './stream.ts';

export { ProblemError, UnreachableError } from './errors.ts';
export type { ClientOptions } from './http.ts';
export type { Source } from './multipart.ts';

/** The input of a schema. Values that it parses from the text of a form or query are numbers here. */
type Request<Schema extends z.ZodType> = {
  [Name in keyof z.input<Schema>]: unknown extends z.input<Schema>[Name] ? number | undefined : z.input<Schema>[Name];
};

export type Upload = Answer<'upload'>;
export type UploadStatus = Answer<'uploadStatus'>;
export type UploadFields = Request<typeof uploadFields>;
export type Page = Answer<'page'>;
export type Job = Answer<'job'>;
export type ListedJob = Answer<'listedJob'>;
export type JobDetail = Answer<'jobDetail'>;
export type NewJob = Request<typeof newJob>;
export type Event = Answer<'event'>;

type Wait = { wait?: number; signal?: AbortSignal | undefined };

interface CreateOptions {
  /** Two calls with the same key, in any process, are one call. The default is random. */
  idempotencyKey?: string;
}

const WAIT_SECONDS = 30;
const MAX_LIMIT = 200;
const POLL_MS = 500;
const ENDED = ['completed', 'failed', 'cancelled'];

/**
 * Typed calls of a sheetmill service. While the service is unavailable, calls that are safe to repeat are repeated for up
 * to a minute; calls that create something send an Idempotency-Key.
 * All throw ProblemError if the service refuses the call, UnreachableError if there is no answer.
 */
export interface Client {
  uploads: Uploads;
  jobs: Jobs;
  schedules: Schedules;
  /** The current health, without repetition. */
  health: { live(): Promise<Answer<'health'>>; ready(): Promise<Answer<'health'>> };
  jobTypes(): AsyncGenerator<Answer<'jobType'>, void>;
  system(): Promise<Answer<'system'>>;
  /** The metrics in the text format of Prometheus. */
  metrics(): Promise<string>;
  openapi(): Promise<Record<string, unknown>>;
}

export function createClient(options: ClientOptions): Client {
  const http = new Http(options);
  return {
    uploads: new Uploads(http),
    jobs: new Jobs(http),
    schedules: new Schedules(http),
    health: {
      live: () => http.json({ path: '/health/live', once: true }),
      ready: () => http.json({ path: '/health/ready', once: true }),
    },
    jobTypes: () => listAll(http, '/job-types'),
    system: () => http.json({ path: '/system' }),
    metrics: () => http.call({ path: '/metrics' }, (response) => response.text()),
    openapi: () => http.json({ path: '/openapi.json' }),
  };
}

class Resource {
  protected readonly http: Http;

  constructor(http: Http) {
    this.http = http;
  }
}

class Uploads extends Resource {
  /** Sends files as one upload. Resolves when the upload is stored, before it is converted. */
  async create(
    files: Source | Source[],
    fields: UploadFields = {},
    { idempotencyKey = randomUUID() }: CreateOptions = {},
  ): Promise<Upload> {
    const form = new Multipart(fields, [files].flat());
    return this.http.json({ method: 'POST', path: '/uploads', form, idempotencyKey });
  }

  /** The upload with at most 200 pages; `pages` lists all of them. */
  get(id: string): Promise<Upload> {
    return this.http.json({ path: pathOf('uploads', id) });
  }

  status(id: string, wait: Wait = {}): Promise<UploadStatus> {
    return this.http.json({ path: pathOf('uploads', id, 'status'), ...wait });
  }

  /** Waits until the upload has ended, without a timeout. Calls `onStatus` about once a second. */
  async done(
    id: string,
    { onStatus, signal }: { onStatus?: (status: UploadStatus) => void; signal?: AbortSignal | undefined } = {},
  ): Promise<Upload> {
    await poll(signal, async () => {
      const status = await this.status(id, { wait: onStatus ? 1 : WAIT_SECONDS, signal });
      onStatus?.(status);
      return status.done ? status : undefined;
    });
    return this.get(id);
  }

  /** All stored pages in order. */
  pages(id: string, query: Request<typeof pageList> = {}): AsyncGenerator<Page, void> {
    return listAll(this.http, pathOf('uploads', id, 'pages'), { limit: MAX_LIMIT, ...query });
  }

  originals(id: string): Promise<Answer<'uploadOriginals'>> {
    return this.http.json({ path: pathOf('uploads', id, 'originals') });
  }

  /** The PNG of a page. Originals and pages count from 1. */
  page(id: string, original: number, page: number) {
    return downloadOf(this.http, pathOf('uploads', id, 'pages', original, `${page}.png`));
  }

  /** The unchanged bytes of an original. */
  original(id: string, original: number) {
    return downloadOf(this.http, pathOf('uploads', id, 'originals', original));
  }

  /** A zip of all pages. */
  archive(id: string) {
    return downloadOf(this.http, pathOf('uploads', id, 'archive.zip'));
  }

  /** All matching uploads, newest first. */
  list(query: Request<typeof uploadList> = {}): AsyncGenerator<Answer<'uploadSummary'>, void> {
    return listAll(this.http, '/uploads', query);
  }

  cancel(id: string): Promise<Upload> {
    return this.http.json({ method: 'POST', path: pathOf('uploads', id, 'cancel') });
  }

  /** Converts failed and cancelled parts again. */
  retry(id: string): Promise<Upload> {
    return this.http.json({ method: 'POST', path: pathOf('uploads', id, 'retry') });
  }

  /** Deletes the upload and its files. */
  delete(id: string): Promise<void> {
    return this.http.nothing({ method: 'DELETE', path: pathOf('uploads', id) });
  }
}

class Jobs extends Resource {
  submit(job: NewJob, { idempotencyKey = randomUUID() }: CreateOptions = {}): Promise<Job> {
    return this.http.json({ method: 'POST', path: '/jobs', json: job, idempotencyKey });
  }

  /** Submits all jobs or none. */
  async batch(batch: NewJob[], { idempotencyKey = randomUUID() }: CreateOptions = {}): Promise<Job[]> {
    const call = { method: 'POST', path: '/jobs', json: batch, idempotencyKey } as const;
    return (await this.http.json<Answer<'jobBatch'>>(call)).items;
  }

  get(id: string, wait: Wait = {}): Promise<JobDetail> {
    return this.http.json({ path: pathOf('jobs', id), ...wait });
  }

  /** Waits until the job has ended, without a timeout. */
  done(id: string, { signal }: { signal?: AbortSignal | undefined } = {}): Promise<JobDetail> {
    return poll(signal, async () => {
      const job = await this.get(id, { wait: WAIT_SECONDS, signal });
      return ENDED.includes(job.status) ? job : undefined;
    });
  }

  cancel(id: string): Promise<JobDetail> {
    return this.http.json({ method: 'PATCH', path: pathOf('jobs', id, 'cancel') });
  }

  retry(id: string): Promise<JobDetail> {
    return this.http.json({ method: 'POST', path: pathOf('jobs', id, 'retry') });
  }

  /** Retries all matching jobs, many of them in the background. Resolves with the number of matches. */
  async retryAll(filter: Request<typeof jobsToRetry>): Promise<number> {
    const call = { method: 'POST', path: '/jobs/retry', json: filter } as const;
    return (await this.http.json<Answer<'bulkOperation'>>(call)).count;
  }

  /** The status changes and log lines of the job, from the line `after` on. */
  logs(id: string, query: { after?: number; limit?: number } = {}): AsyncGenerator<Answer<'logLine'>, void> {
    return listAll(this.http, pathOf('jobs', id, 'logs'), query);
  }

  /** All matching jobs, newest first, without payloads and results above 4 KB. */
  list(query: Request<typeof jobList> = {}): AsyncGenerator<ListedJob, void> {
    return listAll(this.http, '/jobs', query);
  }

  /**
   * The live events, without an end. A broken connection resumes after the last event. `after` selects the first event;
   * 0 starts with the oldest stored one.
   */
  stream(query: Request<typeof streamQuery> & { signal?: AbortSignal | undefined } = {}): AsyncGenerator<Event, never> {
    return followEvents(this.http, '/jobs/stream', query);
  }
}

class Schedules extends Resource {
  put(name: string, schedule: Request<typeof scheduleRequest>): Promise<Answer<'schedule'>> {
    return this.http.json({ method: 'PUT', path: pathOf('schedules', name), json: schedule });
  }

  get(name: string): Promise<Answer<'schedule'>> {
    return this.http.json({ path: pathOf('schedules', name) });
  }

  list(): AsyncGenerator<Answer<'schedule'>, void> {
    return listAll(this.http, '/schedules');
  }

  /** Submits the job of the schedule now. The call is not repeated, because each call creates a job. */
  run(name: string): Promise<Job> {
    return this.http.json({ method: 'POST', path: pathOf('schedules', name, 'run'), once: true });
  }

  delete(name: string): Promise<void> {
    return this.http.nothing({ method: 'DELETE', path: pathOf('schedules', name) });
  }
}

function downloadOf(http: Http, path: string) {
  return {
    /** The bytes as they arrive. A broken connection ends the stream with an error. */
    stream: (): Promise<Readable> => http.call({ path }, async (response) => readableOf(response)),
    /** Writes the bytes to a file. An incomplete file is removed. */
    save: (file: string): Promise<void> => http.call({ path }, (res) => saveAtomically(file, readableOf(res))),
  };
}

function pathOf(...parts: (string | number)[]): string {
  return `/${parts.map(encodeURIComponent).join('/')}`;
}

/** All items of a list, requested in chunks. */
async function* listAll<Item>(http: Http, path: string, query: object = {}): AsyncGenerator<Item, void> {
  type Chunk = { items: Item[]; next_cursor: string | null };
  let next: { cursor?: string } | undefined = {};
  while (next !== undefined) {
    const chunk: Chunk = await http.json<Chunk>({ path, query: { ...query, ...next } });
    yield* chunk.items;
    next = chunk.next_cursor === null ? undefined : { cursor: chunk.next_cursor };
  }
}

/** Reads a whole list into an array. */
export async function collect<Item>(list: AsyncIterable<Item>): Promise<Item[]> {
  const items: Item[] = [];
  for await (const item of list) items.push(item);
  return items;
}

/** Asks until there is an answer: at once after a long poll, at most twice a second without one. */
async function poll<T>(signal: AbortSignal | undefined, ask: () => Promise<T | undefined>): Promise<T> {
  for (;;) {
    const asked = performance.now();
    const answer = await ask();
    if (answer !== undefined) return answer;
    await delay(Math.max(0, asked + POLL_MS - performance.now()), undefined, { signal });
  }
}

function readableOf({ body }: Response): Readable {
  return body === null ? Readable.from([]) : Readable.from(body, { objectMode: false });
}

async function saveAtomically(file: string, source: Readable): Promise<void> {
  const part = `${file}.${randomUUID()}.part`;
  try {
    await pipeline(source, createWriteStream(part, { flags: 'wx' }));
    await rename(part, file);
  } catch (error) {
    await rm(part, { force: true });
    throw error;
  }
}
