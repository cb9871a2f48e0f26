import { randomUUID } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import {
  AbortMultipartUploadCommand,
  DeleteObjectCommand,
  DeleteObjectsCommand,
  GetObjectCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  type ListMultipartUploadsCommandOutput,
  type MultipartUpload,
  NoSuchKey,
  NoSuchUpload,
  NotFound,
  paginateListObjectsV2,
  type S3Client,
} from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import { getSignedUrl } from '@aws-sdk/s3-request-presigner';
import { FairSemaphore } from '../runtime/fair-semaphore.ts';
import { LocalCopies } from './local-copies.ts';
import { MeasuredSource } from './measure.ts';
import { openClient, orUnavailable, type S3Keys } from './s3-client.ts';
import { fileNotFound, type LocalCopy, type Received, type Store } from './store.ts';

/** The smallest part that S3 accepts. It accepts 10,000 parts: 50 GB. */
const PART_BYTES = 5 * 2 ** 20;
const MAX_CONCURRENT_PARTS = 2;
/** Each file being received holds up to 15 MB of parts: half a GB for all. */
const MAX_CONCURRENT_FILES = 32;
/** Clients are cut off as idle after a longer wait. */
const MAX_WAIT_MS = 30_000;
const LINK_SECONDS = 600;

interface S3StoreOptions {
  /** Clients fetch bytes from S3 instead of the API. */
  links: boolean;
  keys: S3Keys;
}

/** A store in a bucket of S3, or of a compatible service at AWS_ENDPOINT_URL. */
export class S3Store implements Store {
  readonly link?: NonNullable<Store['link']>;
  readonly #client: S3Client;
  readonly #bucket: string;
  /** The prefix of all keys: empty, or with a slash at its end. */
  readonly #prefix: string;
  readonly #receiving = new FairSemaphore({ max: MAX_CONCURRENT_FILES, maxWaitMs: MAX_WAIT_MS });
  readonly #copies = new LocalCopies((relative, folder) => this.#download(relative, folder));

  /** @param url `s3://bucket/prefix` */
  constructor(url: string, { links, keys }: S3StoreOptions) {
    const { hostname, pathname } = new URL(url);
    const prefix = pathname.split('/').filter(Boolean).join('/');
    this.#bucket = hostname;
    this.#prefix = prefix && `${prefix}/`;
    this.#client = openClient(keys);
    if (links) this.link = (relative, headers) => this.#sign(relative, headers);
  }

  async receive(source: AsyncIterable<Buffer>, choosePath: (head: Buffer) => string): Promise<Received> {
    const measured = await MeasuredSource.open(source);
    let relative: string;
    let release: () => void;
    try {
      relative = choosePath(measured.head);
      release = await this.#receiving.acquire(undefined);
    } catch (error) {
      await measured.cancel();
      throw error;
    }
    await this.#write(relative, Readable.from(measured.content())).finally(release);
    return { path: relative, ...measured.totals(), discard: () => this.removeFile(relative) };
  }

  async *unfinished() {
    let page: ListMultipartUploadsCommandOutput | undefined;
    do {
      page = await this.#listMultipartUploads(page);
      for (const { Key = '', UploadId, Initiated } of page.Uploads ?? []) {
        if (UploadId === undefined || Initiated === undefined) continue;
        const remove = () => this.#abortMultipartUpload({ Key, UploadId });
        yield { name: Key.slice(this.#prefix.length), began: Initiated, remove };
      }
    } while (page.IsTruncated);
  }

  local(relative: string, folder: string): Promise<LocalCopy> {
    return this.#copies.take(relative, folder);
  }

  async read(relative: string, range?: { start: number; end: number }): Promise<Readable> {
    const Range = range && `bytes=${range.start}-${range.end}`;
    const found = await this.#client
      .send(new GetObjectCommand({ ...this.#object(relative), Range }))
      .catch(undefinedIfMissing);
    if (!(found?.Body instanceof Readable)) throw fileNotFound();
    return found.Body;
  }

  async *files(folder: string): AsyncGenerator<string, void> {
    for await (const keys of this.#listKeys(folder)) yield* keys.map((key) => key.slice(this.#prefix.length));
  }

  async modifiedAt(relative: string): Promise<Date | undefined> {
    const found = await this.#client.send(new HeadObjectCommand(this.#object(relative))).catch(undefinedIfMissing);
    return found?.LastModified;
  }

  async removeFile(relative: string): Promise<void> {
    await this.#client.send(new DeleteObjectCommand(this.#object(relative)));
  }

  async removeFolder(relative: string): Promise<void> {
    for await (const keys of this.#listKeys(relative)) {
      const Delete = { Objects: keys.map((Key) => ({ Key })), Quiet: true };
      const { Errors: [failed] = [] } = await this.#client.send(
        new DeleteObjectsCommand({ Bucket: this.#bucket, Delete }),
      );
      if (failed) throw new Error(`S3 did not delete ${failed.Key}: ${failed.Code} ${failed.Message}`);
    }
  }

  async freeMb(): Promise<number> {
    return Number.POSITIVE_INFINITY;
  }

  async check(): Promise<void> {
    await this.#client.send(new HeadBucketCommand({ Bucket: this.#bucket }));
  }

  #object(relative: string): { Bucket: string; Key: string } {
    return { Bucket: this.#bucket, Key: `${this.#prefix}${relative}` };
  }

  async #write(relative: string, content: Readable): Promise<void> {
    try {
      // An upload that fails removes the parts that it has sent.
      await new Upload({
        client: this.#client,
        params: { ...this.#object(relative), Body: content },
        queueSize: MAX_CONCURRENT_PARTS,
        partSize: PART_BYTES,
      }).done();
    } finally {
      content.destroy();
    }
  }

  async #download(relative: string, folder: string): Promise<string> {
    const file = path.join(folder, `${randomUUID()}${path.extname(relative)}`);
    try {
      await pipeline(await this.read(relative), createWriteStream(file, { flags: 'wx' }));
      return file;
    } catch (error) {
      await rm(file, { force: true });
      throw orUnavailable(error);
    }
  }

  #sign(relative: string, { type, disposition }: { type: string; disposition: string }): Promise<string> {
    const headers = { ResponseContentType: type, ResponseContentDisposition: disposition };
    const command = new GetObjectCommand({ ...this.#object(relative), ...headers });
    return getSignedUrl(this.#client, command, { expiresIn: LINK_SECONDS });
  }

  /** The keys below a folder, up to a thousand at a time: S3 lists and deletes as many in one request. */
  async *#listKeys(folder: string): AsyncGenerator<string[], void> {
    const Prefix = `${this.#prefix}${folder}/`;
    for await (const { Contents = [] } of paginateListObjectsV2(
      { client: this.#client },
      { Bucket: this.#bucket, Prefix },
    )) {
      if (Contents.length > 0) yield Contents.map(({ Key = '' }) => Key);
    }
  }

  #listMultipartUploads(
    after: ListMultipartUploadsCommandOutput | undefined,
  ): Promise<ListMultipartUploadsCommandOutput> {
    return this.#client.send(
      new ListMultipartUploadsCommand({
        Bucket: this.#bucket,
        Prefix: this.#prefix,
        KeyMarker: after?.NextKeyMarker,
        UploadIdMarker: after?.NextUploadIdMarker,
      }),
    );
  }

  async #abortMultipartUpload({ Key, UploadId }: Pick<MultipartUpload, 'Key' | 'UploadId'>): Promise<void> {
    await this.#client
      .send(new AbortMultipartUploadCommand({ Bucket: this.#bucket, Key, UploadId }))
      .catch(undefinedIfMissing);
  }
}

function undefinedIfMissing(error: unknown): undefined {
  if (!(error instanceof NotFound || error instanceof NoSuchKey || error instanceof NoSuchUpload)) throw error;
}
