import { S3Client } from '@aws-sdk/client-s3';
import { AppError } from '../runtime/errors.ts';

const TIMEOUTS = {
  connectionTimeout: 3_000,
  /** Until an answer begins: three tries are over before a client that waits for ours is cut off as idle. */
  requestTimeout: 15_000,
  throwOnRequestTimeout: true,
  /** While bytes flow. A client that reads slowly is cut off by us before that. */
  socketTimeout: 90_000,
};
/** Slow readers each hold one; what bounds them is how many connections we take. */
const SOCKETS = { maxSockets: 5_000 };

/** The keys of an account; a role has none. */
export interface S3Keys {
  AWS_ACCESS_KEY_ID?: string | undefined;
  AWS_SECRET_ACCESS_KEY?: string | undefined;
  AWS_SESSION_TOKEN?: string | undefined;
}

/** A client with these keys, or else with the role that the AWS SDK finds. Where S3 is out of reach, what it sends rejects as `unavailable`. */
export function openClient(keys: S3Keys): S3Client {
  const { AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3, AWS_REGION, AWS_PROFILE } = process.env;
  const client = new S3Client({
    // The SDK prefers a profile to keys.
    ...(!AWS_PROFILE && credentialsOf(keys)),
    region: AWS_REGION || 'us-east-1',
    // Bucket names as host names are for Amazon alone.
    forcePathStyle: Boolean(AWS_ENDPOINT_URL_S3 || AWS_ENDPOINT_URL),
    // Others do not know of the newer checksums.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: { ...TIMEOUTS, httpAgent: SOCKETS, httpsAgent: SOCKETS },
  });
  client.middlewareStack.add(
    (next) => (request) =>
      next(request).catch((error) => {
        throw orUnavailable(error);
      }),
    { step: 'initialize', name: 'tellOutages' },
  );
  return client;
}

function credentialsOf({ AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN }: S3Keys) {
  if (!AWS_ACCESS_KEY_ID || !AWS_SECRET_ACCESS_KEY) return undefined;
  const session = AWS_SESSION_TOKEN ? { sessionToken: AWS_SESSION_TOKEN } : {};
  return { credentials: { accessKeyId: AWS_ACCESS_KEY_ID, secretAccessKey: AWS_SECRET_ACCESS_KEY, ...session } };
}

/** The error, or what it means: S3 could not be reached, or is too busy, and the same request may work later. */
export function orUnavailable(error: unknown): unknown {
  const { name, code, message, $metadata } = error as {
    name?: string;
    code?: string;
    message?: string;
    $metadata?: { httpStatusCode?: number };
  };
  const status = $metadata?.httpStatusCode ?? 0;
  const isOut =
    name === 'TimeoutError' ||
    // What the network says, the SDK sometimes leaves in the message alone.
    /\b(ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH)/.test(`${code} ${message}`) ||
    status === 429 ||
    status >= 500;
  if (!isOut) return error;
  return new AppError('unavailable', 'the store cannot be reached just now', {
    status: 503,
    retryable: true,
    cause: error,
  });
}
