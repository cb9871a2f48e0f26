import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import {
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  UploadPartCommand,
} from '@aws-sdk/client-s3';
import { S3Store } from '../../store/s3.ts';
import type { S3Keys } from '../../store/s3-client.ts';
import { isAway, type Store } from '../../store/store.ts';
import { type S3, startS3 } from '../support/s3.ts';
import { chunks, describeStore } from './contract.ts';

let s3: S3;
let store: Store;
let accountKeys: S3Keys;
let before: NodeJS.ProcessEnv;
async function open(): Promise<Store> {
  s3 = await startS3();
  before = { ...process.env };
  const { AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ...others } = s3.env;
  accountKeys = { AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY };
  Object.assign(process.env, others);
  store = new S3Store(s3.env.STORE_URL, { links: true, keys: accountKeys });
  return store;
}
async function close(): Promise<void> {
  process.env = before;
  await s3.stop();
}

const Bucket = 'sheetmill';

describe('a store on S3', () => describeStore(open, close));

describe('a store on S3 only', () => {
  let work: string;
  beforeEach(async () => {
    await open();
    work = await mkdtemp(path.join(tmpdir(), 'sheetmill-store-'));
  });
  afterEach(async () => {
    await close();
    expect(await readdir(work)).toEqual([]);
    await rm(work, { recursive: true });
  });

  async function keys(): Promise<string[]> {
    const { Contents = [] } = await s3.client.send(new ListObjectsV2Command({ Bucket }));
    return Contents.map(({ Key = '' }) => Key).sort();
  }

  test('the store reads, lists and removes only objects below its prefix', async () => {
    await s3.client.send(new PutObjectCommand({ Bucket, Key: 'uploads/other', Body: 'other' }));
    await store.receive(chunks('content'), () => 'uploads/a');
    expect(await keys()).toEqual(['files/uploads/a', 'uploads/other']);
    const found: string[] = [];
    for await (const file of store.files('uploads')) found.push(file);
    expect(found).toEqual(['uploads/a']);
    await store.removeFolder('uploads');
    expect(await keys()).toEqual(['uploads/other']);
  });

  test('a folder of more files than one request deletes is removed', async () => {
    const names = Array.from({ length: 1_100 }, (_, index) => `uploads/a/${index}`);
    for (let at = 0; at < names.length; at += 50) {
      await Promise.all(names.slice(at, at + 50).map((name) => store.receive(chunks('x'), () => name)));
    }
    await store.removeFolder('uploads/a');
    expect(await keys()).toEqual([]);
  });

  test('an unfinished multipart upload is found with its time, and is removed twice without error', async () => {
    const Key = 'files/uploads/a';
    const { UploadId } = await s3.client.send(new CreateMultipartUploadCommand({ Bucket, Key }));
    await s3.client.send(new UploadPartCommand({ Bucket, Key, UploadId, PartNumber: 1, Body: 'half' }));
    for (const other of ['files/uploads/b', 'else']) {
      await s3.client.send(new CreateMultipartUploadCommand({ Bucket, Key: other }));
    }
    const names: string[] = [];
    for await (const { name, began, remove } of store.unfinished()) {
      expect(Math.abs(Date.now() - began.getTime())).toBeLessThan(5_000);
      names.push(name);
      if (name === 'uploads/b') continue;
      await remove();
      await remove();
    }
    expect(names).toEqual(['uploads/a', 'uploads/b']);
    expect(s3.unfinished()).toEqual(['files/uploads/b', 'else']);
  });

  test('a link serves the bytes with the requested headers, without a key', async () => {
    await store.receive(chunks('content'), () => 'uploads/a');
    const url = await store.link?.('uploads/a', { type: 'image/png', disposition: 'inline; filename="a.png"' });
    const answer = await fetch(url as string);
    expect(answer.status).toBe(200);
    expect(answer.headers.get('content-type')).toBe('image/png');
    expect(answer.headers.get('content-disposition')).toBe('inline; filename="a.png"');
    expect(await answer.text()).toBe('content');
    expect(new URL(url as string).searchParams.get('X-Amz-Expires')).toBe('600');
  });

  test('concurrent readers of a file share one copy, and the last one removes it', async () => {
    await store.receive(chunks('content'), () => 'uploads/a');
    const [one, other] = await Promise.all([1, 2].map(() => store.local('uploads/a', work)));
    expect(one?.file).toBe(other?.file);
    await one?.release();
    expect(await readFile(other?.file ?? '', 'utf8')).toBe('content');
    await other?.release();
    expect(await readdir(work)).toEqual([]);
  });

  test('no more than two parts of a file are read before one of them is stored', async () => {
    const parts: string[] = [];
    const both = Promise.withResolvers<void>();
    const goOn = Promise.withResolvers<void>();
    s3.holdRequests((url) => {
      if (!url.includes('partNumber')) return undefined;
      parts.push(url);
      if (parts.length === 2) both.resolve();
      return goOn.promise;
    });
    let given = 0;
    async function* source() {
      for (; given < 30 * 16; given++) yield Buffer.alloc(65_536);
    }
    const received = store.receive(source(), () => 'uploads/a');
    await both.promise;
    expect(given).toBeLessThan(12 * 16);
    goOn.resolve();
    expect((await received).bytes).toBe(30 * 2 ** 20);
    expect(parts).toHaveLength(6);
  });

  test('calls reject as unavailable while S3 is down, and leave nothing behind', async () => {
    await store.receive(chunks('content'), () => 'uploads/a');
    await s3.goAway();
    let isClosed = false;
    async function* source() {
      try {
        for (let part = 0; part < 20; part++) yield Buffer.alloc(2 ** 20);
      } finally {
        isClosed = true;
      }
    }
    const calls = [
      () => store.receive(source(), () => 'uploads/b'),
      () => store.read('uploads/a'),
      () => store.check(),
      () => store.local('uploads/a', work),
    ];
    const errors = await Promise.all(calls.map((call) => call().catch((error) => error)));
    expect(errors.map(isAway)).toEqual(calls.map(() => true));
    expect(errors[0]).toMatchObject({ status: 503, retryable: true });
    expect(isClosed).toBe(true);
    await s3.comeBack();
    const copy = await store.local('uploads/a', work);
    expect(await readFile(copy.file, 'utf8')).toBe('content');
    await copy.release();
    expect(await keys()).toEqual(['files/uploads/a']);
    expect(s3.unfinished()).toEqual([]);
  });

  test('a store without keys signs links with the role of the platform', async () => {
    const role = {
      AccessKeyId: 'role',
      SecretAccessKey: 'secret',
      Token: 'session',
      Expiration: '2100-01-01T00:00:00Z',
    };
    const server = createServer((_request, response) => {
      response.setHeader('Content-Type', 'application/json').end(JSON.stringify(role));
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as { port: number };
    process.env.AWS_CONTAINER_CREDENTIALS_FULL_URI = `http://127.0.0.1:${port}/`;
    try {
      const signed = new S3Store(s3.env.STORE_URL, { links: true, keys: {} });
      const link = await signed.link?.('uploads/a', { type: 'image/png', disposition: 'inline' });
      expect(link).toContain('X-Amz-Credential=role');
    } finally {
      server.close();
    }
  });

  test('calls to a missing bucket fail', async () => {
    const other = new S3Store('s3://nothing', { links: false, keys: accountKeys });
    await expect(other.check()).rejects.toThrow();
    await expect(other.receive(chunks('content'), () => 'a')).rejects.toThrow();
  });

  test('a deleted file is not found', async () => {
    await store.receive(chunks('content'), () => 'uploads/a');
    await s3.client.send(new DeleteObjectCommand({ Bucket, Key: 'files/uploads/a' }));
    expect(await store.modifiedAt('uploads/a')).toBeUndefined();
    await expect(s3.client.send(new HeadObjectCommand({ Bucket, Key: 'files/uploads/a' }))).rejects.toThrow();
    await expect(store.read('uploads/a')).rejects.toMatchObject({ code: 'not_found' });
  });
});
