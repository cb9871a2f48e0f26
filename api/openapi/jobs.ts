import { z } from 'zod';
import type { ZodOpenApiPathsObject } from 'zod-openapi';
import * as answers from '../answers.ts';
import { jobId, MOST_JOBS, newJob, scheduledJob } from '../job-requests.ts';
import {
  idempotencyKey,
  jobList,
  jobsToRetry,
  logList,
  prefer,
  scheduleName,
  scheduleRequest,
  streamQuery,
} from '../schemas.ts';
import * as examples from './examples.ts';
import { headersNamed, json, problem, problems, response } from './responses.ts';

const tags = ['Jobs'];
const path = z.object({ id: jobId });
const typePath = z.object({ type: z.string().min(1).max(200) });

/** What calls with a body of JSON can answer. */
const unreadable = {
  400: ['invalid_request' as const],
  413: ['file_too_large' as const],
  415: ['unsupported_media_type' as const],
};

export const jobPaths: ZodOpenApiPathsObject = {
  '/jobs': {
    post: {
      tags,
      operationId: 'createJobs',
      summary: 'Submit a job, or a batch',
      description:
        'A batch is taken whole or not at all. A job whose `job_id` is there already is that job, if it is the same, and a `conflict` otherwise.',
      requestParams: { header: z.object({ 'Idempotency-Key': idempotencyKey.optional() }) },
      requestBody: {
        required: true,
        content: {
          'application/json': {
            schema: z.union([newJob, z.array(newJob).min(1).max(MOST_JOBS)]),
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
    post: {
      tags,
      operationId: 'retryJobs',
      summary: 'Run all failed or cancelled jobs that match again',
      requestBody: {
        required: true,
        content: { 'application/json': { schema: jobsToRetry, example: { status: 'failed', type: 'checksum' } } },
      },
      responses: {
        200: json('How many run again', answers.retried, { retried: 3 }),
        ...problems(unreadable),
      },
    },
  },
  '/jobs/stream': {
    get: {
      tags,
      operationId: 'followJobs',
      summary: 'Changes of jobs, pages and uploads as they happen',
      description: `A WebSocket. Each message is one JSON document, an \`Event\`: \`${JSON.stringify(examples.event)}\`. The client sends nothing; one that reads too slowly is sent away, and resumes with \`after\`.`,
      requestParams: { query: streamQuery },
      responses: {
        101: { description: 'The WebSocket is open', headers: headersNamed('Upgrade') },
        426: problem(426, ['invalid_request'], ['Upgrade']),
        ...problems({ 400: ['invalid_request'] }),
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
  },
  '/jobs/{id}/cancel': {
    patch: {
      tags,
      operationId: 'cancelJob',
      summary: 'Cancel a job that has not ended',
      description: 'What runs is aborted within a second; what depends on it fails.',
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
      description: 'What failed because of it waits for it again.',
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
      requestParams: { path },
      responses: {
        200: json('All of them', answers.webhookList, examples.webhookList),
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
  '/schedules': {
    get: {
      tags,
      operationId: 'listSchedules',
      summary: 'Recurring jobs',
      responses: {
        200: json('All of them', answers.scheduleList, examples.scheduleList),
        ...problems({}),
      },
    },
  },
  '/schedules/{name}': {
    put: {
      tags,
      operationId: 'putSchedule',
      summary: 'Submit a job again and again',
      description: 'A schedule of that name is replaced.',
      requestParams: { path: z.object({ name: scheduleName }) },
      requestBody: {
        required: true,
        content: {
          'application/json': {
            // The job is kept as it was sent, and read by the schema that reads it here, too.
            schema: scheduleRequest.extend({ job: scheduledJob }),
            example: examples.scheduleRequest,
          },
        },
      },
      responses: {
        200: json('The schedule', answers.schedule, examples.schedule),
        ...problems({ ...unreadable, 422: ['forbidden_url'] }),
      },
    },
    delete: {
      tags,
      operationId: 'deleteSchedule',
      summary: 'Submit it no more',
      requestParams: { path: z.object({ name: scheduleName }) },
      responses: {
        204: response('It is gone'),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
};
