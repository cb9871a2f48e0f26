import { z } from 'zod';
import type { ZodOpenApiPathsObject } from 'zod-openapi';
import { streamQuery } from '../events/requests.ts';
import { idempotencyKey } from '../http/idempotency.ts';
import { prefer } from '../http/prefer.ts';
import { EVENT, UPLOAD_ID } from '../openapi/examples.ts';
import { headersNamed, json, problem, problems } from '../openapi/responses.ts';
import { webhookList } from '../webhooks/requests.ts';
import * as webhookDocuments from '../webhooks/responses.ts';
import { jobList, jobsToCancel, jobsToDelete, jobsToRetry, logList } from './filters.ts';
import { jobChange, jobId, MAX_JOBS, newJob } from './requests.ts';
import * as answers from './responses.ts';

const tags = ['Jobs'];
const path = z.object({ id: jobId });
const typePath = z.object({ type: z.string().min(1).max(200) });

const NEW_ARCHIVE = { type: 'archive', payload: { upload_id: UPLOAD_ID } };
const NEW_BATCH = [
  { job_id: 'sums', type: 'checksum', payload: { upload_id: UPLOAD_ID }, retry_config: { max_attempts: 5 } },
  { job_id: 'zip', type: 'archive', payload: { upload_id: UPLOAD_ID }, depends_on: ['sums'] },
];

/** Errors of every call with a JSON body. */
const unreadable = {
  400: ['invalid_request' as const],
  413: ['file_too_large' as const],
  415: ['unsupported_media_type' as const],
};

/** Describes a call that changes all jobs that match a filter. */
function bulkCall({
  schema,
  example,
  description,
  ...call
}: {
  operationId: string;
  summary: string;
  description: string;
  schema: z.ZodType;
  example: object;
}) {
  return {
    tags,
    ...call,
    description: `Changes the jobs that match now. More than a hundred jobs are changed in the background: the answer then has the \`status\` \`running\`. The same call during a running operation returns that operation. ${description}`,
    requestBody: { required: true, content: { 'application/json': { schema, example } } },
    responses: {
      200: json('The operation', answers.bulkOperation, ['Location']),
      ...problems(unreadable),
    },
  };
}

export const jobPaths: ZodOpenApiPathsObject = {
  '/jobs': {
    post: {
      tags,
      operationId: 'createJobs',
      summary: 'Submit a job or a batch of jobs',
      description:
        'Batches are atomic. If a job with the same `job_id` exists, the answer is that job if it is equal, and a `conflict` otherwise. A `unique` key in use returns the existing job, and so does a second archive of the same pages. Only one archive of an upload is made at a time.',
      requestParams: { header: z.object({ 'Idempotency-Key': idempotencyKey.optional() }) },
      requestBody: {
        required: true,
        content: {
          'application/json': {
            schema: z.union([newJob, z.array(newJob).min(1).max(MAX_JOBS)]),
            examples: {
              'an archive of the pages of an upload': { value: NEW_ARCHIVE },
              'a batch of two jobs, the second of which waits for the first': { value: NEW_BATCH },
            },
          },
        },
      },
      responses: {
        201: json('The job, or the jobs of the batch in order', z.union([answers.job, answers.jobBatch]), ['Location']),
        ...problems({
          ...unreadable,
          409: ['conflict'],
          422: [
            'dependency_cycle',
            'unknown_dependency',
            'unknown_upload',
            'exceeds_capacity',
            'forbidden_url',
            'idempotency_mismatch',
          ],
        }),
      },
    },
    get: {
      tags,
      operationId: 'listJobs',
      summary: 'List jobs, newest first',
      requestParams: { query: jobList },
      responses: {
        200: json('A page of jobs', answers.jobList),
        ...problems({ 400: ['invalid_request'] }),
      },
    },
  },
  '/jobs/retry': {
    post: bulkCall({
      operationId: 'retryJobs',
      summary: 'Retry all matching jobs that failed or were cancelled',
      description:
        'A job whose dependencies failed fails again with `dependency_failed`, and runs when they are retried.',
      schema: jobsToRetry,
      example: { status: 'failed', type: 'checksum' },
    }),
  },
  '/jobs/cancel': {
    post: bulkCall({
      operationId: 'cancelJobs',
      summary: 'Cancel all matching jobs that have not ended',
      description: 'At least one filter is required.',
      schema: jobsToCancel,
      example: { type: 'checksum', created_before: '2026-11-24T00:00:00Z' },
    }),
  },
  '/jobs/delete': {
    post: bulkCall({
      operationId: 'deleteJobs',
      summary: 'Delete all matching jobs that have ended',
      description: 'Keeps jobs of an upload, which are deleted with the upload. At least one filter is required.',
      schema: jobsToDelete,
      example: { status: 'completed', created_before: '2026-11-24T00:00:00Z' },
    }),
  },
  '/jobs/bulk/{operation}': {
    get: {
      tags,
      operationId: 'getBulkOperation',
      summary: 'Get the progress of a bulk retry, cancel or delete',
      description: 'An operation is kept for a day after its end.',
      requestParams: { path: z.object({ operation: z.uuid() }) },
      responses: {
        200: json('The operation', answers.bulkOperation),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/jobs/stream': {
    get: {
      tags,
      operationId: 'followJobs',
      summary: 'Stream changes of jobs, pages and uploads',
      description: `A WebSocket. Each message is an \`Event\` in JSON: \`${JSON.stringify(EVENT)}\`. Client messages are not accepted. A client that reads too slowly is disconnected; it resumes with \`after\`. The progress of a job is sent at most once a second, with the \`id\` of the event before it. A key may open 100 streams at a time.`,
      requestParams: { query: streamQuery },
      responses: {
        101: { description: 'The WebSocket is open', headers: headersNamed('Upgrade') },
        426: problem(426, ['invalid_request'], ['Upgrade']),
        ...problems({ 400: ['invalid_request'], 429: ['too_many_requests'], 503: ['unavailable'] }),
      },
    },
  },
  '/jobs/{id}': {
    get: {
      tags,
      operationId: 'getJob',
      summary: 'Get a job with its attempts',
      requestParams: { path, header: z.object({ Prefer: prefer.optional() }) },
      responses: {
        200: json('The job with its attempts', answers.jobDetail, ['Retry-After', 'Preference-Applied']),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
    patch: {
      tags,
      operationId: 'changeJob',
      summary: 'Change a waiting job',
      description:
        'A job that runs or has ended gives a `conflict`. Jobs of an upload or of another job accept only a new priority. The payload of an archive cannot change.',
      requestParams: { path },
      requestBody: {
        required: true,
        content: { 'application/json': { schema: jobChange, example: { priority: 'high', run_at: null } } },
      },
      responses: {
        200: json('The changed job', answers.jobDetail),
        ...problems({
          ...unreadable,
          404: ['not_found'],
          409: ['conflict'],
          422: ['unknown_upload'],
        }),
      },
    },
  },
  '/jobs/{id}/cancel': {
    patch: {
      tags,
      operationId: 'cancelJob',
      summary: 'Cancel a job that has not ended',
      description:
        'A running attempt is aborted within a second. Dependants fail, unless their `run_on` is `failure` or `always`.',
      requestParams: { path },
      responses: {
        200: json('The cancelled job', answers.jobDetail),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'], 409: ['conflict'] }),
      },
    },
  },
  '/jobs/{id}/retry': {
    post: {
      tags,
      operationId: 'retryJob',
      summary: 'Run a failed or cancelled job again',
      description:
        'Dependants that failed because of the job wait for it again. A job whose dependency failed or was deleted gives a `conflict`.',
      requestParams: { path },
      responses: {
        200: json('The restarted job', answers.jobDetail),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'], 409: ['conflict'] }),
      },
    },
  },
  '/jobs/{id}/webhooks': {
    get: {
      tags,
      operationId: 'listJobWebhooks',
      summary: 'List the webhooks of a job with their delivery attempts',
      requestParams: { path, query: webhookList },
      responses: {
        200: json('A page of webhooks, oldest first', webhookDocuments.webhookList),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/jobs/{id}/logs': {
    get: {
      tags,
      operationId: 'listLogs',
      summary: 'List the log of a job: its status changes and the lines of its task',
      requestParams: { path, query: logList },
      responses: {
        200: json('A page of log lines, oldest first', answers.logList),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/jobs/{id}/graph': {
    get: {
      tags,
      operationId: 'getJobGraph',
      summary: 'Get a job with all related jobs',
      description: 'Related are dependencies, dependants, parents and children, directly or through other jobs.',
      requestParams: { path },
      responses: {
        200: json('The job and its related jobs (at most 200, nearest first)', answers.jobGraph),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/job-types': {
    get: {
      tags,
      operationId: 'listJobTypes',
      summary: 'List job types with the JSON Schemas of their payloads, their limits and their state',
      responses: {
        200: json('All job types', answers.jobTypeList),
        ...problems({}),
      },
    },
  },
  '/job-types/{type}/pause': {
    post: {
      tags,
      operationId: 'pauseJobType',
      summary: 'Pause a job type',
      description: 'New jobs of the type are accepted and wait. Running jobs continue. Requires the scope `admin`.',
      requestParams: { path: typePath },
      responses: {
        200: json('The paused type', answers.jobType),
        ...problems({ 404: ['not_found'] }),
      },
    },
  },
  '/job-types/{type}/resume': {
    post: {
      tags,
      operationId: 'resumeJobType',
      summary: 'Resume a paused job type',
      description: 'Requires the scope `admin`.',
      requestParams: { path: typePath },
      responses: {
        200: json('The resumed type', answers.jobType),
        ...problems({ 404: ['not_found'] }),
      },
    },
  },
};
