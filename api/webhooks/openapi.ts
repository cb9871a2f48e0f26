import { z } from 'zod';
import type { ZodOpenApiPathItemObject, ZodOpenApiPathsObject } from 'zod-openapi';
import { jobNotice } from '../jobs/responses.ts';
import { uploadNotice } from '../uploads/responses.ts';

const HEADERS = z.object({
  'webhook-id': z.string().describe('Delivery is at least once: use it to deduplicate'),
  'webhook-timestamp': z.string().describe('Seconds since 1970'),
  'webhook-signature': z
    .string()
    .describe('As Standard Webhooks says: `v1,` and the signature in base64, one for each secret'),
});

/** The request that a `notify_url` gets when an upload or a job has ended. */
function noticeOf(name: 'upload' | 'job', data: z.ZodType): ZodOpenApiPathItemObject {
  const type = z.enum([`${name}.completed`, `${name}.failed`, `${name}.cancelled`]);
  return {
    post: {
      operationId: `${name}Ended`,
      summary: `The ${name} has ended`,
      requestParams: { header: HEADERS },
      requestBody: {
        content: { 'application/json': { schema: z.strictObject({ type, timestamp: z.iso.datetime(), data }) } },
      },
      responses: { 200: { description: 'Any 2xx delivers it, 410 ends it, everything else is tried again' } },
    },
  };
}

export const webhooks: ZodOpenApiPathsObject = {
  uploadEnded: noticeOf('upload', uploadNotice),
  jobEnded: noticeOf('job', jobNotice),
};
