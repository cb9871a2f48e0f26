import { z } from 'zod';
import type { ZodOpenApiPathsObject } from 'zod-openapi';
import * as examples from '../openapi/examples.ts';
import { json, open, probe, problems, response } from '../openapi/responses.ts';
import * as answers from './responses.ts';

const tags = ['Operations'];
const text = z.string();

export const operationPaths: ZodOpenApiPathsObject = {
  '/health/live': {
    get: {
      tags,
      security: probe.security,
      operationId: 'isAlive',
      summary: 'Whether the process lives',
      responses: { 200: json('It does', answers.health, { status: 'ok' }), ...probe.responses },
    },
  },
  '/health/ready': {
    get: {
      tags,
      security: probe.security,
      operationId: 'isReady',
      summary: 'Whether Postgres answers, is migrated, and the store can be written',
      responses: { 200: json('They do', answers.health, examples.ready), ...probe.responses },
    },
  },
  '/system': {
    get: {
      tags,
      operationId: 'getSystem',
      summary: 'Converters, queues by shape, and the attempts that ended in the last minutes',
      responses: { 200: json('Just now', answers.system, examples.system), ...problems({}) },
    },
  },
  '/metrics': {
    get: {
      tags,
      operationId: 'getMetrics',
      summary: 'Reservations, queues and peak memory for Prometheus',
      responses: {
        200: response('Metrics', [], { 'text/plain': { schema: text, example: examples.metrics } }),
        ...problems({}),
      },
    },
  },
  '/openapi.json': {
    get: {
      tags,
      security: open.security,
      operationId: 'getOpenapi',
      summary: 'This document',
      responses: {
        200: response('OpenAPI 3.1', [], { 'application/json': { schema: z.record(z.string(), z.unknown()) } }),
        ...open.responses,
      },
    },
  },
  '/': {
    get: {
      tags,
      security: open.security,
      operationId: 'getDashboard',
      summary: 'The dashboard: a page that shows uploads, jobs and converters as they work',
      responses: { 200: response('A page', ['Cache-Control'], { 'text/html': { schema: text } }), ...open.responses },
    },
  },
  '/docs': {
    get: {
      tags,
      security: open.security,
      operationId: 'getDocs',
      summary: 'This document as a page, to read and to try out',
      responses: { 200: response('A page', [], { 'text/html': { schema: text } }), ...open.responses },
    },
  },
};
