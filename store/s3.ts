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
  NoSuchKey,
  NotFound,
  paginateListObjectsV2,
} from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import { getSignedUrl } from '@aws-sdk/s3-request-presigner';
import { createLocalCopies } from './local-copies.ts';
import { measure } from './measure.ts';
import { openClient, orUnavailable, type S3Keys } from './s3-client.ts';
import { createTurns } from './semaphore.ts';
import { gone, type Store } from './store.ts';

/** The least that S3 takes, of 10,000 at most: enough for 50 GB. */
const PART_BYTES = 5 * 2 ** 20;
const PARTS_AT_ONCE = 2;
/** A part is held until it is sent, however slowly it comes in: up to 15 MB for each file, half a GB for all. */
const FILES_AT_ONCE = 32;
/** A client that waits longer is cut off as idle. */
const PATIENCE_MS = 30_000;
const LINK_SECONDS = 600;

/** A store in a bucket of S3, or of what speaks its protocol at AWS_ENDPOINT_URL. `url` is `s3://bucket/prefix`. */
export async function openS3Store(url: string, { links, keys }: { links: boolean; keys: S3Keys }): Promise<Store> {
  const { Bucket, prefix } = parseUrl(url);
  const client = openClient(keys);
  const at = (relative: string) => ({ Bucket, Key: `${prefix}${relative}` });
  const takeTurn = createTurns(FILES_AT_ONCE, PATIENCE_MS);
  const local = createLocalCopies(async (relative, folder) => {
    const file = path.join(folder, `${randomUUID()}${path.extname(relative)}`);
    try {
      await pipeline(await read(relative), createWriteStream(file, { flags: 'wx' }));
      return file;
    } catch (error) {
      await rm(file, { force: true });
      throw orUnavailable(error);
    }
  });

  async function read(relative: string, range?: { start: number; end: number }): Promise<Readable> {
    const Range = range && `bytes=${range.start}-${range.end}`;
    const found = await client.send(new GetObjectCommand({ ...at(relative), Range })).catch(unlessMissing);
    if (found === undefined) throw gone();
    return found.Body as Readable;
  }

  async function write(relative: string, content: Readable): Promise<void> {
    const options = { queueSize: PARTS_AT_ONCE, partSize: PART_BYTES };
    try {
      // What was sent of one that fails is removed by it.
      await new Upload({ client, params: { ...at(relative), Body: content }, ...options }).done();
    } finally {
      content.destroy();
    }
  }

  async function removeFile(relative: string): Promise<void> {
    await client.send(new DeleteObjectCommand(at(relative)));
  }

  /** As many as one request tells and takes at a time: a thousand. */
  async function* keysBelow(folder: string): AsyncGenerator<string[], void> {
    const listed = paginateListObjectsV2({ client }, { Bucket, Prefix: `${prefix}${folder}/` });
    for await (const { Contents = [] } of listed) {
      if (Contents.length > 0) yield Contents.map(({ Key = '' }) => Key);
    }
  }

  return {
    async receive(source, place) {
      const { head, whole, drop, measured } = await measure(source);
      let relative: string;
      let giveBack: () => void;
      try {
        relative = place(head);
        giveBack = await takeTurn();
      } catch (error) {
        await drop();
        throw error;
      }
      await write(relative, Readable.from(whole)).finally(giveBack);
      return { path: relative, ...measured(), discard: () => removeFile(relative) };
    },

    async *unfinished() {
      let more: Pick<ListMultipartUploadsCommandOutput, 'NextKeyMarker' | 'NextUploadIdMarker'> | undefined = {};
      while (more) {
        const listed: ListMultipartUploadsCommandOutput = await client.send(
          new ListMultipartUploadsCommand({
            Bucket,
            Prefix: prefix,
            KeyMarker: more.NextKeyMarker,
            UploadIdMarker: more.NextUploadIdMarker,
          }),
        );
        for (const { Key = '', UploadId, Initiated } of listed.Uploads ?? []) {
          if (UploadId === undefined || Initiated === undefined) continue;
          const remove = async () => {
            await client.send(new AbortMultipartUploadCommand({ Bucket, Key, UploadId })).catch(unlessMissing);
          };
          yield { name: Key.slice(prefix.length), began: Initiated, remove };
        }
        more = listed.IsTruncated ? listed : undefined;
      }
    },

    local,

    read,

    ...(links && {
      async link(relative: string, { type, disposition }: { type: string; disposition: string }) {
        const headers = { ResponseContentType: type, ResponseContentDisposition: disposition };
        return getSignedUrl(client, new GetObjectCommand({ ...at(relative), ...headers }), { expiresIn: LINK_SECONDS });
      },
    }),

    async *files(folder) {
      for await (const keys of keysBelow(folder)) yield* keys.map((key) => key.slice(prefix.length));
    },

    async modifiedAt(relative) {
      const found = await client.send(new HeadObjectCommand(at(relative))).catch(unlessMissing);
      return found?.LastModified;
    },

    removeFile,

    async removeFolder(relative) {
      for await (const keys of keysBelow(relative)) {
        const Delete = { Objects: keys.map((Key) => ({ Key })), Quiet: true };
        const { Errors: [failed] = [] } = await client.send(new DeleteObjectsCommand({ Bucket, Delete }));
        if (failed) throw new Error(`${failed.Key} is not removed: ${failed.Code} ${failed.Message}`);
      }
    },

    async freeMb() {
      return Number.POSITIVE_INFINITY;
    },

    async check() {
      await client.send(new HeadBucketCommand({ Bucket }));
    },
  };
}

function parseUrl(url: string): { Bucket: string; prefix: string } {
  const { hostname, pathname } = new URL(url);
  const prefix = pathname.split('/').filter(Boolean).join('/');
  return { Bucket: hostname, prefix: prefix && `${prefix}/` };
}

function unlessMissing(error: unknown): undefined {
  if (!(error instanceof NotFound || error instanceof NoSuchKey || (error as Error).name === 'NoSuchUpload'))
    throw error;
}
