import { z } from 'zod';
import type { ZodOpenApiPathsObject } from 'zod-openapi';
import { SCHEDULE_REQUEST } from '../openapi/examples.ts';
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
      summary: 'List schedules by name',
      requestParams: { query: scheduleList },
      responses: {
        200: json('A page of schedules', answers.scheduleList),
        ...problems({ 400: ['invalid_request'] }),
      },
    },
  },
  '/schedules/{name}': {
    put: {
      tags,
      operationId: 'putSchedule',
      summary: 'Create or replace a schedule',
      description:
        'Submits the job at every time that matches `cron`. A local time that a clock change skips runs once, right after the change; a repeated local time also runs once. An expression with both a day of month and a day of week matches days that match either. `paused` pauses and resumes the schedule.',
      requestParams: { path },
      requestBody: {
        required: true,
        content: {
          'application/json': {
            // The request keeps the job as it was sent; it is parsed with this schema separately.
            schema: scheduleRequest.extend({ job: scheduledJob }),
            example: SCHEDULE_REQUEST,
          },
        },
      },
      responses: {
        200: json('The schedule', answers.schedule),
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
      summary: 'Get a schedule',
      requestParams: { path },
      responses: {
        200: json('The schedule', answers.schedule),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
    delete: {
      tags,
      operationId: 'deleteSchedule',
      summary: 'Delete a schedule',
      description: 'Keeps the jobs that the schedule has submitted.',
      requestParams: { path },
      responses: {
        204: response('The schedule is deleted'),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/schedules/{name}/run': {
    post: {
      tags,
      operationId: 'runSchedule',
      summary: 'Run a schedule now',
      description: 'Submits the job at once, even while the schedule is paused. `next_run_at` does not change.',
      requestParams: { path },
      responses: {
        201: json('The submitted job', answers.job, ['Location']),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'], 409: ['conflict'] }),
      },
    },
  },
};
