import { z } from 'zod';
import type { ZodOpenApiPathItemObject, ZodOpenApiPathsObject } from 'zod-openapi';
import { jobNotice } from '../jobs/responses.ts';
import { uploadNotice } from '../uploads/responses.ts';

const HEADERS = z.object({
  'webhook-id': z.string().describe('Delivery is at least once and unordered: deduplicate by this id'),
  'webhook-timestamp': z.string().describe('Time of the delivery in seconds since 1970'),
  'webhook-signature': z
    .string()
    .describe('As Standard Webhooks specifies: `v1,` and the signature in base64, one for each secret'),
});

/** Describes the request to `notify_url` when an upload or a job has ended. */
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
      responses: {
        200: { description: 'A 2xx status acknowledges the webhook, 410 ends it, and any other answer is retried' },
      },
    },
  };
}

export const webhooks: ZodOpenApiPathsObject = {
  uploadEnded: noticeOf('upload', uploadNotice),
  jobEnded: noticeOf('job', jobNotice),
};
