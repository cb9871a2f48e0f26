import { createDocument, type oas31, type ZodOpenApiOverride } from 'zod-openapi';
import manifest from '../../package.json' with { type: 'json' };
import * as events from '../events/responses.ts';
import { failure } from '../http/fields.ts';
import { problem } from '../http/problem.ts';
import { jobsToRetry } from '../jobs/filters.ts';
import { jobPaths } from '../jobs/openapi.ts';
import { newJob, scheduledJob } from '../jobs/requests.ts';
import * as jobs from '../jobs/responses.ts';
import { schedulePaths } from '../jobs/schedule-openapi.ts';
import { operationPaths } from '../operations/openapi.ts';
import * as operations from '../operations/responses.ts';
import { uploadPaths } from '../uploads/openapi.ts';
import * as uploads from '../uploads/responses.ts';
import { webhooks } from '../webhooks/openapi.ts';
import * as webhookAnswers from '../webhooks/responses.ts';
import { HEADERS } from './responses.ts';

/** What all calls need unless they say otherwise: a key or a token, or nothing where none are configured. */
const security: oas31.SecurityRequirementObject[] = [{ bearer: [] }, {}];

/** Schemas with a name of their own in the document; all others are written where they are used. */
const schemas = {
  Upload: uploads.upload,
  UploadSummary: uploads.uploadSummary,
  UploadStatus: uploads.uploadStatus,
  UploadList: uploads.uploadList,
  UploadNotice: uploads.uploadNotice,
  UploadPages: uploads.uploadPages,
  UploadOriginals: uploads.uploadOriginals,
  Original: uploads.original,
  Page: uploads.page,
  Failure: failure,
  NewJob: newJob,
  Job: jobs.job,
  JobDetail: jobs.jobDetail,
  JobNotice: jobs.jobNotice,
  JobList: jobs.jobList,
  JobBatch: jobs.jobBatch,
  JobsToRetry: jobsToRetry,
  Webhook: webhookAnswers.webhook,
  WebhookList: webhookAnswers.webhookList,
  Attempt: jobs.attempt,
  LogLine: jobs.logLine,
  LogList: jobs.logList,
  JobType: jobs.jobType,
  JobTypeList: jobs.jobTypeList,
  ScheduledJob: scheduledJob,
  Schedule: jobs.schedule,
  ScheduleList: jobs.scheduleList,
  Event: events.event,
  System: operations.system,
  Health: operations.health,
  Problem: problem,
};

const description = `Turns uploaded PDFs and images into PNG pages below 3500 x 3500 pixels, and runs other jobs.

Upload with \`POST /uploads\`, ask \`GET /uploads/{id}/status\` until it is \`done\`, and read everything from \`GET /uploads/{id}\`.

- Times are RFC 3339, answers have them in UTC. Originals and pages count from 1.
- Lists are \`{items, next_cursor}\`; the cursor, sent back as \`cursor\`, gives what follows, and null says that nothing does.
- Errors are \`application/problem+json\` (RFC 9457) with a stable \`code\` and the id of the request, which is in the log too.
- \`error\` on an upload, original or page has one of the codes \`corrupt_file\` \`unsupported_feature\` (a sound file that needs
  something that is not supported) \`encrypted_pdf\` \`wrong_password\` \`too_many_pages\` \`too_many_pixels\` \`page_out_of_range\` \`out_of_memory\` \`timeout\` \`converter_lost\`
  \`sandbox_violation\` \`internal\`; on a job \`task_failed\` and
  \`dependency_failed\`, too, and \`dependency_completed\` on a cancelled job that runs on failure, when nothing failed.
- Every \`GET\` answers \`HEAD\` as well.`;

/** The OpenAPI 3.1 document of all calls, from the schemas that read the requests and shape the answers. */
export function openapiDocument() {
  return createDocument(
    {
      openapi: '3.1.0',
      info: { title: manifest.name, version: manifest.version, description },
      tags: [
        { name: 'Uploads', description: 'Files in, pages out' },
        { name: 'Jobs', description: 'The queue that converts, and takes other work' },
        { name: 'Operations', description: 'For those who run it' },
      ],
      security,
      paths: { ...uploadPaths, ...jobPaths, ...schedulePaths, ...operationPaths },
      webhooks,
      components: {
        schemas,
        headers: HEADERS,
        securitySchemes: { bearer: { type: 'http', scheme: 'bearer', description: 'A key, or a JWT' } },
      },
    },
    { override: withoutNoise },
  );
}

/** Leaves out what `format` says already, and the bounds of what JavaScript can count. */
const withoutNoise: ZodOpenApiOverride = ({ jsonSchema }) => {
  if (jsonSchema.format !== undefined) delete jsonSchema.pattern;
  if (jsonSchema.minimum === Number.MIN_SAFE_INTEGER) delete jsonSchema.minimum;
  if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum;
};
