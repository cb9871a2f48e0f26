import { z } from 'zod';
import type { ZodOpenApiPathsObject } from 'zod-openapi';
import { streamQuery } from '../events/requests.ts';
import { idempotencyKey } from '../http/idempotency.ts';
import { prefer } from '../http/prefer.ts';
import * as examples from '../openapi/examples.ts';
import { headersNamed, json, problem, problems, response } from '../openapi/responses.ts';
import { webhookList } from '../webhooks/requests.ts';
import * as webhookAnswers from '../webhooks/responses.ts';
import { jobList, jobsToCancel, jobsToDelete, jobsToRetry, logList } from './filters.ts';
import { jobChange, jobId, MAX_JOBS, newJob } from './requests.ts';
import * as answers from './responses.ts';

const tags = ['Jobs'];
const path = z.object({ id: jobId });
const typePath = z.object({ type: z.string().min(1).max(200) });

/** What calls with a body of JSON can answer. */
const unreadable = {
  400: ['invalid_request' as const],
  413: ['file_too_large' as const],
  415: ['unsupported_media_type' as const],
};

/** A call that changes all jobs that match a filter. */
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
    description: `Changes the jobs that match at this moment, and answers at once: with \`status\` \`running\` if there are more than a hundred, which are then changed in the background. The same call joins an operation that still runs. ${description}`,
    requestBody: { required: true, content: { 'application/json': { schema, example } } },
    responses: {
      200: json('The operation, with its `Location`', answers.bulkOperation, examples.bulkOperation, ['Location']),
      ...problems(unreadable),
    },
  };
}

export const jobPaths: ZodOpenApiPathsObject = {
  '/jobs': {
    post: {
      tags,
      operationId: 'createJobs',
      summary: 'Submit a job, or a batch',
      description:
        'Batches are atomic. A job whose `job_id` exists already is that job, if it is the same, and a `conflict` otherwise. A `unique` key that is in use, and an archive of pages that have been archived, give the existing job. One archive of an upload is made at a time.',
      requestParams: { header: z.object({ 'Idempotency-Key': idempotencyKey.optional() }) },
      requestBody: {
        required: true,
        content: {
          'application/json': {
            schema: z.union([newJob, z.array(newJob).min(1).max(MAX_JOBS)]),
            examples: {
              'an archive of the pages of an upload': { value: examples.newArchive },
              'a batch, one job of which waits for the other': { value: examples.newBatch },
            },
          },
        },
      },
      responses: {
        201: response('The job, with its `Location`; or the jobs of the batch, in order', ['Location'], {
          'application/json': {
            schema: z.union([answers.job, answers.jobBatch]),
            examples: { 'a job': { value: examples.readyJob }, 'a batch': { value: examples.jobBatch } },
          },
        }),
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
      summary: 'Jobs, the newest first',
      requestParams: { query: jobList },
      responses: {
        200: json('Some of them', answers.jobList, examples.jobList),
        ...problems({ 400: ['invalid_request'] }),
      },
    },
  },
  '/jobs/retry': {
    post: bulkCall({
      operationId: 'retryJobs',
      summary: 'Retry all failed or cancelled jobs that match',
      description:
        'A job that its prerequisites do not let run has failed with `dependency_failed` afterwards, and runs once they are retried.',
      schema: jobsToRetry,
      example: { status: 'failed', type: 'checksum' },
    }),
  },
  '/jobs/cancel': {
    post: bulkCall({
      operationId: 'cancelJobs',
      summary: 'Cancel all jobs that match and have not ended',
      description: 'At least one filter is needed.',
      schema: jobsToCancel,
      example: { type: 'checksum', created_before: '2026-11-24T00:00:00Z' },
    }),
  },
  '/jobs/delete': {
    post: bulkCall({
      operationId: 'deleteJobs',
      summary: 'Delete all jobs that match and have ended',
      description: 'Jobs of an upload are left out: they are deleted with it. At least one filter is needed.',
      schema: jobsToDelete,
      example: { status: 'completed', created_before: '2026-11-24T00:00:00Z' },
    }),
  },
  '/jobs/bulk/{operation}': {
    get: {
      tags,
      operationId: 'getBulkOperation',
      summary: 'How far a bulk retry, cancel or delete has come',
      description: 'Kept for a day after its end.',
      requestParams: { path: z.object({ operation: z.uuid() }) },
      responses: {
        200: json('The operation', answers.bulkOperation, examples.bulkOperation),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/jobs/stream': {
    get: {
      tags,
      operationId: 'followJobs',
      summary: 'Changes of jobs, pages and uploads as they happen',
      description: `A WebSocket. Each message is one JSON document, an \`Event\`: \`${JSON.stringify(examples.event)}\`. The client sends nothing; a client that reads too slowly is disconnected, and resumes with \`after\`. The progress of a job is sent at most once a second; it carries the \`id\` of the event before it. A key may have 100 streams at a time.`,
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
      summary: 'A job with its attempts',
      requestParams: { path, header: z.object({ Prefer: prefer.optional() }) },
      responses: {
        200: json('All of it', answers.jobDetail, examples.jobDetail, ['Retry-After', 'Preference-Applied']),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
    patch: {
      tags,
      operationId: 'changeJob',
      summary: 'Change a job that waits',
      description:
        'A job that runs or has ended is a `conflict`. Only the priority can change of jobs that an upload or another job has made, and never the payload of an archive.',
      requestParams: { path },
      requestBody: {
        required: true,
        content: { 'application/json': { schema: jobChange, example: { priority: 'high', run_at: null } } },
      },
      responses: {
        200: json('The job, changed', answers.jobDetail, examples.changedJob),
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
        'A running attempt is aborted within a second. Dependants fail, unless their `run_on` says otherwise.',
      requestParams: { path },
      responses: {
        200: json('The job, cancelled', answers.jobDetail, examples.cancelledJob),
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
        'Dependants that failed because of it wait for it again. A job whose prerequisite failed or was deleted is a `conflict`.',
      requestParams: { path },
      responses: {
        200: json('The job, at work again', answers.jobDetail, examples.retriedJob),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'], 409: ['conflict'] }),
      },
    },
  },
  '/jobs/{id}/webhooks': {
    get: {
      tags,
      operationId: 'listJobWebhooks',
      summary: 'What was told to its `notify_url`, with each attempt',
      requestParams: { path, query: webhookList },
      responses: {
        200: json('In the order of its ends', webhookAnswers.webhookList, examples.webhookList),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/jobs/{id}/logs': {
    get: {
      tags,
      operationId: 'listLogs',
      summary: "A job's changes of status, and what its task logged",
      requestParams: { path, query: logList },
      responses: {
        200: json('In the order of time', answers.logList, examples.logList),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/jobs/{id}/graph': {
    get: {
      tags,
      operationId: 'getJobGraph',
      summary: 'The job with those tied to it, over any number of steps',
      description: 'Those that it waits for, that wait for it, that it was split from and into, and theirs.',
      requestParams: { path },
      responses: {
        200: json('They, up to 200 and the nearest first', answers.jobGraph, examples.jobGraph),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/job-types': {
    get: {
      tags,
      operationId: 'listJobTypes',
      summary: 'Every job type with the JSON Schema of its payload, its limits, and whether it is paused',
      responses: {
        200: json('All of them', answers.jobTypeList, examples.jobTypeList),
        ...problems({}),
      },
    },
  },
  '/job-types/{type}/pause': {
    post: {
      tags,
      operationId: 'pauseJobType',
      summary: 'Start no more jobs of a type',
      description: 'Jobs of the type are still accepted, and wait. Running jobs continue. Takes the scope `admin`.',
      requestParams: { path: typePath },
      responses: {
        200: json('The type, paused', answers.jobType, examples.pausedJobType),
        ...problems({ 404: ['not_found'] }),
      },
    },
  },
  '/job-types/{type}/resume': {
    post: {
      tags,
      operationId: 'resumeJobType',
      summary: 'Start jobs of a paused type again',
      description: 'Takes the scope `admin`.',
      requestParams: { path: typePath },
      responses: {
        200: json('The type, not paused', answers.jobType, examples.jobTypeList.items[0]),
        ...problems({ 404: ['not_found'] }),
      },
    },
  },
};
