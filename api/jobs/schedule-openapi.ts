import { z } from 'zod';
import type { ZodOpenApiPathsObject } from 'zod-openapi';
import * as examples from '../openapi/examples.ts';
import { json, problems, response } from '../openapi/responses.ts';
import { scheduledJob } from './requests.ts';
import * as answers from './responses.ts';
import { scheduleList, scheduleName, scheduleRequest } from './schedule-requests.ts';

const tags = ['Jobs'];
const path = z.object({ name: scheduleName });

export const schedulePaths: ZodOpenApiPathsObject = {
  '/schedules': {
    get: {
      tags,
      operationId: 'listSchedules',
      summary: 'Recurring jobs, by name',
      requestParams: { query: scheduleList },
      responses: {
        200: json('Some of them', answers.scheduleList, examples.scheduleList),
        ...problems({ 400: ['invalid_request'] }),
      },
    },
  },
  '/schedules/{name}': {
    put: {
      tags,
      operationId: 'putSchedule',
      summary: 'Create or replace a schedule, pause it, or resume it',
      description:
        'Submits the job at every time that matches `cron`. A local time that a clock change skips runs once right after the change, and one that comes twice runs once. An expression that restricts both the day of month and the day of week matches days that match either.',
      requestParams: { path },
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
        ...problems({
          400: ['invalid_request'],
          413: ['file_too_large'],
          415: ['unsupported_media_type'],
          422: ['unknown_upload', 'exceeds_capacity', 'forbidden_url'],
        }),
      },
    },
    get: {
      tags,
      operationId: 'getSchedule',
      summary: 'A schedule with its next and its last run',
      requestParams: { path },
      responses: {
        200: json('The schedule', answers.schedule, examples.schedule),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
    delete: {
      tags,
      operationId: 'deleteSchedule',
      summary: 'Delete a schedule; the jobs that it has submitted stay',
      requestParams: { path },
      responses: {
        204: response('It is gone'),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/schedules/{name}/run': {
    post: {
      tags,
      operationId: 'runSchedule',
      summary: 'Run a schedule now',
      description: 'Submits its job at once, also while it is paused. The next run stays as it is.',
      requestParams: { path },
      responses: {
        201: json('The job, with its `Location`', answers.job, examples.readyJob, ['Location']),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'], 409: ['conflict'] }),
      },
    },
  },
};
