import { z } from 'zod';
import type { ZodOpenApiPathsObject } from 'zod-openapi';
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
      summary: 'Liveness probe',
      responses: { 200: json('The process is alive', answers.health), ...probe.responses },
    },
  },
  '/health/ready': {
    get: {
      tags,
      security: probe.security,
      operationId: 'isReady',
      summary: 'Readiness probe: Postgres, its migrations, and the store',
      responses: { 200: json('All dependencies are ready', answers.health), ...probe.responses },
    },
  },
  '/system': {
    get: {
      tags,
      operationId: 'getSystem',
      summary: 'Get the state of the system',
      responses: { 200: json('Converters, queues by shape, and recent attempts', answers.system), ...problems({}) },
    },
  },
  '/metrics': {
    get: {
      tags,
      operationId: 'getMetrics',
      summary: 'Metrics for Prometheus',
      responses: {
        200: response('Metrics', [], { 'text/plain': { schema: text } }),
        ...problems({}),
      },
    },
  },
  '/openapi.json': {
    get: {
      tags,
      security: open.security,
      operationId: 'getOpenapi',
      summary: 'This document in JSON',
      responses: {
        200: response('The OpenAPI 3.1 document', [], {
          'application/json': { schema: z.record(z.string(), z.unknown()) },
        }),
        ...open.responses,
      },
    },
  },
  '/': {
    get: {
      tags,
      security: open.security,
      operationId: 'getDashboard',
      summary: 'The dashboard: uploads, jobs and converters, updated live',
      responses: { 200: response('The page', ['Cache-Control'], { 'text/html': { schema: text } }), ...open.responses },
    },
  },
  '/docs': {
    get: {
      tags,
      security: open.security,
      operationId: 'getDocs',
      summary: 'This document as a web page with forms that send requests',
      responses: { 200: response('The page', [], { 'text/html': { schema: text } }), ...open.responses },
    },
  },
};
