import { S3Client } from '@aws-sdk/client-s3';
import { AppError, errorCode, errorMessage, memberOf } from '../runtime/errors.ts';

const TIMEOUTS = {
  connectionTimeout: 3_000,
  /** Until a response begins. Three tries end before our own client is cut off as idle. */
  requestTimeout: 15_000,
  throwOnRequestTimeout: true,
  /** Between two bytes. The API cuts off a client that reads slowly before this. */
  socketTimeout: 90_000,
};
/** Every slow reader holds one, so the number of connections is the real limit. */
const SOCKETS = { maxSockets: 5_000 };

/** The network leaves its code in the message of some errors of the SDK. */
const NETWORK_FAILURE = /\b(ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH)/;

/** The keys of an account; a role has none. */
export interface S3Keys {
  AWS_ACCESS_KEY_ID?: string | undefined;
  AWS_SECRET_ACCESS_KEY?: string | undefined;
  AWS_SESSION_TOKEN?: string | undefined;
}

/** A client with these keys, or else with the role that the AWS SDK finds. Its calls reject as `unavailable` while S3 is out of reach. */
export function openClient(keys: S3Keys): S3Client {
  const { AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3, AWS_REGION, AWS_PROFILE } = process.env;
  const client = new S3Client({
    // The SDK prefers a profile to keys.
    ...(!AWS_PROFILE && credentialsOf(keys)),
    region: AWS_REGION || 'us-east-1',
    // Only Amazon has bucket names as host names.
    forcePathStyle: Boolean(AWS_ENDPOINT_URL_S3 || AWS_ENDPOINT_URL),
    // Compatible services do not know the newer checksums.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: { ...TIMEOUTS, httpAgent: SOCKETS, httpsAgent: SOCKETS },
  });
  client.middlewareStack.add(
    (next) => (request) =>
      next(request).catch((error) => {
        throw orUnavailable(error);
      }),
    { step: 'initialize', name: 'reportOutages' },
  );
  return client;
}

function credentialsOf({ AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN }: S3Keys) {
  if (!AWS_ACCESS_KEY_ID || !AWS_SECRET_ACCESS_KEY) return undefined;
  const session = AWS_SESSION_TOKEN ? { sessionToken: AWS_SESSION_TOKEN } : {};
  return { credentials: { accessKeyId: AWS_ACCESS_KEY_ID, secretAccessKey: AWS_SECRET_ACCESS_KEY, ...session } };
}

/** `unavailable` if S3 could not be reached or is too busy, since a retry may succeed; other errors as they are. */
export function orUnavailable(error: unknown): unknown {
  const status = Number(memberOf(memberOf(error, '$metadata'), 'httpStatusCode') ?? 0);
  const isOut =
    memberOf(error, 'name') === 'TimeoutError' ||
    NETWORK_FAILURE.test(`${errorCode(error)} ${errorMessage(error)}`) ||
    status === 429 ||
    status >= 500;
  if (!isOut) return error;
  return new AppError('unavailable', 'the store cannot be reached', { status: 503, retryable: true, cause: error });
}
