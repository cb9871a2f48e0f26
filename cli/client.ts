import { randomUUID } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { rename, rm } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { ReadableStream } from 'node:stream/web';
import { setTimeout as delay } from 'node:timers/promises';
import type { z } from 'zod';
import type { Answer } from '../api/client-types.ts';
import type { streamQuery } from '../api/events/requests.ts';
import type { jobList, jobsToRetry } from '../api/jobs/filters.ts';
import type { newJob } from '../api/jobs/requests.ts';
import type { scheduleRequest } from '../api/jobs/schedule-requests.ts';
import type { pageList, uploadFields, uploadList } from '../api/uploads/requests.ts';
import { type ClientOptions, createHttp } from './http.ts';
import { createMultipart, type Source } from './multipart.ts';
import { followEvents } from './stream.ts';

export { type ClientOptions, ProblemError, UnreachableError } from './http.ts';
export type { Source } from './multipart.ts';

/** What a schema takes. What it reads from the text of a form or query is a number here. */
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

interface Creating {
  /** Of your own, so that the same call by another process is the same call; made up by default. */
  idempotencyKey?: string;
}

interface Waiting {
  signal?: AbortSignal | undefined;
}

/** For how long the service is asked to hold an answer; and how often one that does not is asked. */
const WAIT_SECONDS = 30;
const MAX_LIMIT = 200;
const POLL_MS = 500;
const ENDED = ['completed', 'failed', 'cancelled'];

export type Client = ReturnType<typeof createClient>;

/**
 * Typed calls of a sheetmill service. They are repeated for up to a minute while it cannot be reached or asks to come
 * back later, where that can do nothing twice: whatever creates something sends an Idempotency-Key.
 * All throw ProblemError for what the service refuses, UnreachableError when there is no answer.
 */
export function createClient(options: ClientOptions) {
  const http = createHttp(options);
  const at = (...parts: (string | number)[]) => `/${parts.map(encodeURIComponent).join('/')}`;

  /** Every item of a list, asked for page by page. */
  async function* all<Item>(path: string, query: object): AsyncGenerator<Item, void> {
    let next: { cursor?: string } | undefined = {};
    while (next !== undefined) {
      type Page = { items: Item[]; next_cursor: string | null };
      const { items, next_cursor }: Page = await http.json<Page>({ path, query: { ...query, ...next } });
      yield* items;
      next = next_cursor === null ? undefined : { cursor: next_cursor };
    }
  }

  function download(path: string) {
    return {
      /** The bytes as they come. A connection that breaks ends them with an error. */
      stream: (): Promise<Readable> => http.call({ path }, async (response) => readableOf(response)),
      /** Writes them to a file: all of them, or the file is not there. */
      save: (file: string): Promise<void> => http.call({ path }, (response) => writeWhole(file, readableOf(response))),
    };
  }

  const uploads = {
    /** Sends files as one upload; gives it at once, while it waits to be converted. */
    async create(
      files: Source | Source[],
      fields: UploadFields = {},
      { idempotencyKey = randomUUID() }: Creating = {},
    ): Promise<Upload> {
      const form = createMultipart(fields, [files].flat());
      return http.json({ method: 'POST', path: '/uploads', form, idempotencyKey });
    },
    /** Its originals and its first 200 pages, as far as they are there; `pages` gives all of them. */
    get: (id: string) => http.json<Upload>({ path: at('uploads', id) }),
    status: (id: string, { wait, signal }: Waiting & { wait?: number } = {}) =>
      http.json<UploadStatus>({ path: at('uploads', id, 'status'), signal, ...(wait !== undefined && { wait }) }),
    /** Waits until it has ended, however long that takes, and gives it; `onStatus` is told about once a second. */
    async done(
      id: string,
      { onStatus, signal }: Waiting & { onStatus?: (status: UploadStatus) => void } = {},
    ): Promise<Upload> {
      const wait = onStatus ? 1 : WAIT_SECONDS;
      await poll(signal, async () => {
        const status = await uploads.status(id, { wait, signal });
        onStatus?.(status);
        return status.done ? status : undefined;
      });
      return uploads.get(id);
    },
    /** All pages that are there, in order. */
    pages: (id: string, query: Request<typeof pageList> = {}) =>
      all<Page>(at('uploads', id, 'pages'), { limit: MAX_LIMIT, ...query }),
    originals: (id: string) => http.json<Answer<'uploadOriginals'>>({ path: at('uploads', id, 'originals') }),
    /** The PNG of a page; originals and pages count from 1. */
    page: (id: string, original: number, page: number) => download(at('uploads', id, 'pages', original, `${page}.png`)),
    /** The bytes of an original, as they were sent. */
    original: (id: string, original: number) => download(at('uploads', id, 'originals', original)),
    /** A zip of all pages. */
    archive: (id: string) => download(at('uploads', id, 'archive.zip')),
    /** All that match, newest first. */
    list: (query: Request<typeof uploadList> = {}) => all<Answer<'uploadSummary'>>('/uploads', query),
    cancel: (id: string) => http.json<Upload>({ method: 'POST', path: at('uploads', id, 'cancel') }),
    /** Converts again what failed or was cancelled. */
    retry: (id: string) => http.json<Upload>({ method: 'POST', path: at('uploads', id, 'retry') }),
    /** Removes it with its files. */
    delete: (id: string) => http.nothing({ method: 'DELETE', path: at('uploads', id) }),
  };

  const jobs = {
    submit: (job: NewJob, { idempotencyKey = randomUUID() }: Creating = {}) =>
      http.json<Job>({ method: 'POST', path: '/jobs', json: job, idempotencyKey }),
    /** Takes all of them or none. */
    async batch(batch: NewJob[], { idempotencyKey = randomUUID() }: Creating = {}): Promise<Job[]> {
      const call = { method: 'POST', path: '/jobs', json: batch, idempotencyKey } as const;
      return (await http.json<Answer<'jobBatch'>>(call)).items;
    },
    get: (id: string, { wait, signal }: Waiting & { wait?: number } = {}) =>
      http.json<JobDetail>({ path: at('jobs', id), signal, ...(wait !== undefined && { wait }) }),
    /** Waits until it has ended, however long that takes, and gives it. */
    done: (id: string, { signal }: Waiting = {}): Promise<JobDetail> =>
      poll(signal, async () => {
        const job = await jobs.get(id, { wait: WAIT_SECONDS, signal });
        return ENDED.includes(job.status) ? job : undefined;
      }),
    cancel: (id: string) => http.json<JobDetail>({ method: 'PATCH', path: at('jobs', id, 'cancel') }),
    retry: (id: string) => http.json<JobDetail>({ method: 'POST', path: at('jobs', id, 'retry') }),
    /** Retries all jobs that match, many of them in the background; gives how many matched. */
    async retryAll(filter: Request<typeof jobsToRetry>): Promise<number> {
      const call = { method: 'POST', path: '/jobs/retry', json: filter } as const;
      return (await http.json<Answer<'bulkOperation'>>(call)).count;
    },
    /** Its changes of status and what its task logged, from the line `after` on. */
    logs: (id: string, query: { after?: number; limit?: number } = {}) =>
      all<Answer<'logLine'>>(at('jobs', id, 'logs'), query),
    /** All that match, newest first, without payloads and results above 4 KB. */
    list: (query: Request<typeof jobList> = {}) => all<ListedJob>('/jobs', query),
    /**
     * Every change as it happens, without end: leave the loop when you have seen enough. A connection that breaks goes
     * on after the last event; with `after` (0: from the first one stored) none is missed before the first, either.
     */
    stream: (query: Request<typeof streamQuery> & Waiting = {}) => followEvents<Event>(http, '/jobs/stream', query),
  };

  const schedules = {
    put: (name: string, schedule: Request<typeof scheduleRequest>) =>
      http.json<Answer<'schedule'>>({ method: 'PUT', path: at('schedules', name), json: schedule }),
    get: (name: string) => http.json<Answer<'schedule'>>({ path: at('schedules', name) }),
    list: () => all<Answer<'schedule'>>('/schedules', {}),
    /** Submits its job at once. Not repeated after a failure: each call makes a job. */
    run: (name: string) => http.json<Job>({ method: 'POST', path: at('schedules', name, 'run'), once: true }),
    delete: (name: string) => http.nothing({ method: 'DELETE', path: at('schedules', name) }),
  };

  /** As things are now: not repeated. */
  const health = {
    live: () => http.json<Answer<'health'>>({ path: '/health/live', once: true }),
    ready: () => http.json<Answer<'health'>>({ path: '/health/ready', once: true }),
  };

  return {
    uploads,
    jobs,
    schedules,
    health,
    jobTypes: () => all<Answer<'jobType'>>('/job-types', {}),
    system: () => http.json<Answer<'system'>>({ path: '/system' }),
    /** In the text format of Prometheus. */
    metrics: () => http.call({ path: '/metrics' }, (response) => response.text()),
    openapi: () => http.json<Record<string, unknown>>({ path: '/openapi.json' }),
  };
}

/** All items of a list at once. */
export async function collect<Item>(list: AsyncIterable<Item>): Promise<Item[]> {
  const items: Item[] = [];
  for await (const item of list) items.push(item);
  return items;
}

/** Asks until there is an answer. A service that holds it back is asked again at once, another one twice a second. */
async function poll<T>(signal: AbortSignal | undefined, ask: () => Promise<T | undefined>): Promise<T> {
  for (;;) {
    const asked = performance.now();
    const answer = await ask();
    if (answer !== undefined) return answer;
    await delay(Math.max(0, asked + POLL_MS - performance.now()), undefined, { signal });
  }
}

function readableOf({ body }: Response): Readable {
  return body === null ? Readable.from([]) : Readable.fromWeb(body as ReadableStream);
}

async function writeWhole(file: string, source: Readable): Promise<void> {
  const part = `${file}.${randomUUID()}.part`;
  try {
    await pipeline(source, createWriteStream(part, { flags: 'wx' }));
    await rename(part, file);
  } catch (error) {
    await rm(part, { force: true });
    throw error;
  }
}
