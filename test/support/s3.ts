import { once } from 'node:events';
import { createServer, request as sendRequest } from 'node:http';
import type { AddressInfo } from 'node:net';
import { S3Client } from '@aws-sdk/client-s3';
import { startFauxqs } from 'fauxqs';

export type S3 = Awaited<ReturnType<typeof startS3>>;

/**
 * A server that speaks S3 over HTTP, with an empty bucket `sheetmill`, and how to reach it. In front of fauxqs stands what
 * it lacks: the list of unfinished uploads, headers that a link asks for, and outages. The caller calls `stop()`.
 */
export async function startS3() {
  const server = await startFauxqs({ port: 0, logger: false });
  server.createBucket('sheetmill');
  const unfinished = new Map<string, { key: string; initiated: string }>();
  let hold: ((path: string) => Promise<void> | undefined) | undefined;

  const front = createServer(async (request, response) => {
    const { url = '', method, headers } = request;
    const { pathname, searchParams: query } = new URL(url, 'http://s3');
    if (method === 'GET' && query.has('uploads')) {
      response.end(listing(query.get('prefix') ?? '', query.get('upload-id-marker')));
      return;
    }
    await hold?.(url);
    const forwarded = sendRequest({ port: server.port, path: url, method, headers }, (answer) => {
      for (const header of ['content-type', 'content-disposition']) {
        const wanted = query.get(`response-${header}`);
        if (wanted !== null) answer.headers[header] = wanted;
      }
      let text = '';
      if (method === 'POST') answer.on('data', (chunk) => (text += chunk));
      answer.on('end', () => {
        const [, began] = /<UploadId>(.+)<\/UploadId>/.exec(text) ?? [];
        const key = decodeURIComponent(pathname.slice('/sheetmill/'.length));
        if (began !== undefined) unfinished.set(began, { key, initiated: new Date().toISOString() });
        const isEnd = method === 'POST' || method === 'DELETE';
        if (isEnd && answer.statusCode && answer.statusCode < 300) unfinished.delete(query.get('uploadId') ?? '');
      });
      response.writeHead(answer.statusCode ?? 500, answer.headers);
      answer.pipe(response);
    });
    forwarded.on('error', () => response.destroy());
    response.on('close', () => forwarded.destroy());
    request.pipe(forwarded);
  });

  /** One a page, to see that all pages are asked for. */
  function listing(prefix: string, after: string | null): string {
    const below = [...unfinished].filter(([, { key }]) => key.startsWith(prefix));
    const at = below.findIndex(([id]) => id === after) + 1;
    const [id, found] = below[at] ?? [];
    const upload =
      found &&
      `<Upload><Key>${found.key}</Key><UploadId>${id}</UploadId><Initiated>${found.initiated}</Initiated></Upload>`;
    return `<?xml version="1.0" encoding="UTF-8"?><ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
      <Bucket>sheetmill</Bucket><IsTruncated>${at + 1 < below.length}</IsTruncated>
      <NextKeyMarker>${found?.key ?? ''}</NextKeyMarker><NextUploadIdMarker>${id ?? ''}</NextUploadIdMarker>${upload ?? ''}
      </ListMultipartUploadsResult>`;
  }

  async function open(port: number): Promise<number> {
    front.listen(port, '127.0.0.1');
    await once(front, 'listening');
    return (front.address() as AddressInfo).port;
  }
  async function goAway(): Promise<void> {
    front.closeAllConnections();
    if (front.listening) await new Promise((resolve) => front.close(resolve).closeAllConnections());
  }

  const port = await open(0);
  const env = {
    STORE_URL: 's3://sheetmill/files',
    AWS_ENDPOINT_URL: `http://127.0.0.1:${port}`,
    AWS_ACCESS_KEY_ID: 'test',
    AWS_SECRET_ACCESS_KEY: 'test',
    AWS_REGION: 'us-east-1',
  };
  const client = new S3Client({
    endpoint: env.AWS_ENDPOINT_URL,
    region: env.AWS_REGION,
    forcePathStyle: true,
    credentials: { accessKeyId: 'test', secretAccessKey: 'test' },
  });
  return {
    env,
    client,
    /** The keys of objects that were begun in parts and not ended. */
    unfinished: () => [...unfinished.values()].map(({ key }) => key),
    /** From now on requests wait for what this gives for their URL. */
    holdRequests(until: (url: string) => Promise<void> | undefined): void {
      hold = until;
    },
    /** Refuses connections until `comeBack`. */
    goAway,
    comeBack: () => open(port),
    async stop(): Promise<void> {
      client.destroy();
      await goAway();
      await server.stop();
    },
  };
}
