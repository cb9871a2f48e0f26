import { createReadStream, createWriteStream } from 'node:fs';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
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
  S3Client,
} from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import { getSignedUrl } from '@aws-sdk/s3-request-presigner';
import { createCopies } from './copies.ts';
import { measure } from './measure.ts';
import type { Store } from './store.ts';

/** S3 takes 10,000 parts of one object, so that this is enough for 80 GB, and two of them are in memory for each upload. */
const PART_BYTES = 8 * 2 ** 20;
const PARTS_AT_ONCE = 2;
const LARGEST_LIST = 1000;
const LINK_SECONDS = 600;
const WORK_FOLDER = 'sheetmill-work-';

/**
 * A store in a bucket of S3, or of what speaks its protocol at AWS_ENDPOINT_URL, with the credentials that the AWS SDK
 * finds. `url` is `s3://bucket/prefix`. Attempts work in temporary folders. Throws if the bucket cannot be reached.
 */
export async function openS3Store(url: string, { links }: { links: boolean }): Promise<Store> {
  const { Bucket, prefix } = parseUrl(url);
  const { AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3, AWS_REGION } = process.env;
  const client = new S3Client({
    region: AWS_REGION || 'us-east-1',
    // Bucket names as host names are for Amazon alone.
    forcePathStyle: Boolean(AWS_ENDPOINT_URL_S3 || AWS_ENDPOINT_URL),
    // Others do not know of the newer checksums.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
  });
  const at = (relative: string) => ({ Bucket, Key: `${prefix}${relative}` });
  await removeOldWork();
  const work = await mkdtemp(path.join(tmpdir(), `${WORK_FOLDER}${process.pid}-`));
  const copies = createCopies(path.join(work, 'copies'), async (relative, file) => {
    await pipeline(await read(relative), createWriteStream(file));
  });

  async function read(relative: string, range?: { start: number; end: number }): Promise<Readable> {
    const Range = range && `bytes=${range.start}-${range.end}`;
    const { Body } = await client.send(new GetObjectCommand({ ...at(relative), Range }));
    return Body as Readable;
  }

  async function write(relative: string, content: Readable): Promise<void> {
    const options = { queueSize: PARTS_AT_ONCE, partSize: PART_BYTES };
    // What was sent of one that fails is removed by it.
    await new Upload({ client, params: { ...at(relative), Body: content }, ...options }).done();
  }

  async function removeFile(relative: string): Promise<void> {
    await client.send(new DeleteObjectCommand(at(relative)));
  }

  async function* files(folder: string): AsyncGenerator<string, void> {
    for await (const { Contents = [] } of paginateListObjectsV2(
      { client },
      { Bucket, Prefix: `${prefix}${folder}/` },
    )) {
      for (const { Key = '' } of Contents) yield Key.slice(prefix.length);
    }
  }

  return {
    async receive(source, place) {
      const { head, whole, drop, measured } = await measure(source);
      let relative: string;
      try {
        relative = place(head);
      } catch (error) {
        await drop();
        throw error;
      }
      await write(relative, Readable.from(whole));
      return { path: relative, ...measured(), discard: () => removeFile(relative) };
    },

    async *unfinished() {
      let more: { NextKeyMarker?: string | undefined; NextUploadIdMarker?: string | undefined } | undefined = {};
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

    async workspace() {
      const output = await mkdtemp(path.join(work, 'job-'));
      const taken: string[] = [];
      const publish = async (relative: string) => {
        const file = path.join(output, relative);
        await write(relative, createReadStream(file));
        await rm(file);
      };
      return {
        output,
        async input(relative) {
          taken.push(relative);
          return copies.take(relative);
        },
        publish,
        async publishAll() {
          const entries = await readdir(output, { recursive: true, withFileTypes: true });
          for (const entry of entries.filter((one) => one.isFile())) {
            await publish(path.relative(output, path.join(entry.parentPath, entry.name)));
          }
        },
        async close() {
          await Promise.all(taken.map(copies.giveBack));
          await rm(output, { recursive: true, force: true }).catch(() => undefined);
        },
      };
    },

    read,

    ...(links && {
      async link(relative: string, { type, disposition }: { type: string; disposition: string }) {
        const headers = { ResponseContentType: type, ResponseContentDisposition: disposition };
        return getSignedUrl(client, new GetObjectCommand({ ...at(relative), ...headers }), { expiresIn: LINK_SECONDS });
      },
    }),

    files,

    async modifiedAt(relative) {
      const found = await client.send(new HeadObjectCommand(at(relative))).catch(unlessMissing);
      return found?.LastModified;
    },

    removeFile,

    async removeFolder(relative) {
      let batch: { Key: string }[] = [];
      const remove = async () => {
        if (batch.length === 0) return;
        const { Errors: [failed] = [] } = await client.send(
          new DeleteObjectsCommand({ Bucket, Delete: { Objects: batch, Quiet: true } }),
        );
        if (failed) throw new Error(`${failed.Key} is not removed: ${failed.Code} ${failed.Message}`);
        batch = [];
      };
      for await (const file of files(relative)) {
        batch.push({ Key: `${prefix}${file}` });
        if (batch.length === LARGEST_LIST) await remove();
      }
      await remove();
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

/** Of processes of this machine that were killed. Their ids are in the names; this one's id can only be from before it. */
async function removeOldWork(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    const [, pid] = name.match(new RegExp(`^${WORK_FOLDER}(\\d+)-`)) ?? [];
    if (pid === undefined || (Number(pid) !== process.pid && isAlive(Number(pid)))) continue;
    await rm(path.join(tmpdir(), name), { recursive: true, force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
