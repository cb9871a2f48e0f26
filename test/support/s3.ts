import { S3Client } from '@aws-sdk/client-s3';
import { startFauxqs } from 'fauxqs';

/** A server that speaks S3 over HTTP, with an empty bucket `sheetmill`, and how to reach it. The caller calls `stop()`. */
export async function startS3() {
  const server = await startFauxqs({ port: 0, logger: false });
  server.createBucket('sheetmill');
  const env = {
    STORE_URL: 's3://sheetmill/files',
    AWS_ENDPOINT_URL: `http://127.0.0.1:${server.port}`,
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
    async stop(): Promise<void> {
      client.destroy();
      await server.stop();
    },
  };
}
