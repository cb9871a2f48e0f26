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
import * as webhookDocuments from '../webhooks/responses.ts';
import { EXAMPLES } from './examples.ts';
import { HEADERS } from './responses.ts';

/** The default of all calls: a key or token, or nothing if none are configured. */
const security: oas31.SecurityRequirementObject[] = [{ bearer: [] }, {}];

/** Named schemas of the document. All others are written where they are used. */
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
  Webhook: webhookDocuments.webhook,
  WebhookList: webhookDocuments.webhookList,
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

const description = `Converts uploaded PDFs and images into PNG pages below 3500 x 3500 pixels, and runs other jobs.

Upload files with \`POST /uploads\`. Poll \`GET /uploads/{id}/status\` until \`done\` is true. Read originals and pages from \`GET /uploads/{id}\`.

- Times are RFC 3339; answers use UTC. Originals and pages count from 1.
- Lists are \`{items, next_cursor}\`. Send \`next_cursor\` as \`cursor\` to get the next page; null means that the list is complete.
- Errors are \`application/problem+json\` (RFC 9457) with a stable \`code\` and the \`request_id\`, which is also in the log.
- \`error\` on an upload, original or page has one of the codes \`corrupt_file\` \`unsupported_feature\` (a valid file that needs
  an unsupported feature) \`encrypted_pdf\` \`wrong_password\` \`too_many_pages\` \`too_many_pixels\` \`page_out_of_range\`
  \`out_of_memory\` \`timeout\` \`converter_lost\` \`sandbox_violation\` \`internal\`. A job can also have \`task_failed\`,
  \`dependency_failed\`, and \`dependency_completed\` (a job with \`run_on\` \`failure\` was cancelled because nothing failed).
- Every \`GET\` also answers \`HEAD\`.`;

/** Creates the OpenAPI 3.1 document from the schemas that parse the requests and shape the answers. */
export function openapiDocument() {
  return createDocument(
    {
      openapi: '3.1.0',
      info: { title: manifest.name, version: manifest.version, description },
      tags: [
        { name: 'Uploads', description: 'Upload files and read their pages' },
        { name: 'Jobs', description: 'The job queue, for conversions and other work' },
        { name: 'Operations', description: 'Health, metrics and documentation' },
      ],
      security,
      paths: { ...uploadPaths, ...jobPaths, ...schedulePaths, ...operationPaths },
      webhooks,
      components: {
        schemas,
        headers: HEADERS,
        securitySchemes: { bearer: { type: 'http', scheme: 'bearer', description: 'An API key or a JWT' } },
      },
    },
    { override: refine },
  );
}

/** Adds the example of a schema. Removes patterns that repeat `format`, and the bounds of JavaScript's integers. */
const refine: ZodOpenApiOverride = ({ zodSchema, jsonSchema }) => {
  const example = EXAMPLES.get(zodSchema);
  if (example !== undefined) jsonSchema.examples = [example];
  if (jsonSchema.format !== undefined) delete jsonSchema.pattern;
  if (jsonSchema.minimum === Number.MIN_SAFE_INTEGER) delete jsonSchema.minimum;
  if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum;
};
