import type { z } from 'zod';
import type { oas31, ZodOpenApiResponseObject, ZodOpenApiResponsesObject } from 'zod-openapi';
import { AppError, type ErrorCode } from '../../runtime/errors.ts';
import { problemOf } from '../http/problem.ts';
import { id } from './examples.ts';

/** What the operations say of their answers, made short. */

const text = { type: 'string' } as const;

/** Headers of answers, each a component of the document under its own name. */
export const HEADERS = {
  'X-Request-Id': { description: 'Names the request in the log', required: true, schema: { ...text, format: 'uuid' } },
  'Retry-After': {
    description: 'Seconds until it is worth another try; on what was asked for, only while that has not ended',
    schema: { type: 'integer' },
  },
  'Preference-Applied': { description: 'For how long the answer was held at most', schema: text },
  'Content-Disposition': { description: "A name made from the client's own", schema: text },
  'WWW-Authenticate': { required: true, schema: { const: 'Bearer' } },
  RateLimit: { description: 'What is left, of what is limited', schema: text },
  'RateLimit-Policy': { description: 'How much there is in which time', schema: text },
  Location: { description: 'Where it is; a batch has none', schema: { ...text, format: 'uri-reference' } },
  'Content-Length': { required: true, schema: { type: 'integer' } },
  'Content-Range': { description: 'Which bytes these are, and of how many', required: true, schema: text },
  'Accept-Ranges': { required: true, schema: { const: 'bytes' } },
  ETag: {
    description: 'Of all the bytes; of one file their SHA-256',
    required: true,
    schema: { ...text, pattern: '^"[0-9a-f]{64}"$' },
  },
  'Cache-Control': { required: true, schema: text },
  Upgrade: { required: true, schema: { const: 'websocket' } },
} as const satisfies Record<string, oas31.HeaderObject>;

type HeaderName = keyof typeof HEADERS;

/** An answer with a body, or without one, and the headers that it always carries. */
export function response(
  description: string,
  headers: HeaderName[] = [],
  content?: ZodOpenApiResponseObject['content'],
): ZodOpenApiResponseObject {
  return { description, headers: headersNamed('X-Request-Id', ...headers), ...(content && { content }) };
}

export function headersNamed(...names: HeaderName[]): Record<string, oas31.ReferenceObject> {
  return Object.fromEntries(names.map((name) => [name, reference('headers', name)]));
}

/** An answer of JSON. The example is a real one. */
export function json(
  description: string,
  schema: z.ZodType,
  example: unknown,
  headers: HeaderName[] = [],
): ZodOpenApiResponseObject {
  return response(description, headers, { 'application/json': { schema, example } });
}

/** What each code at the edge means, with the `detail` of an example and the members that it brings. */
const CODES: Partial<Record<ErrorCode, { means: string; detail: string; members?: Record<string, unknown> }>> = {
  invalid_request: {
    means: 'the request does not keep to this document; `detail` says where',
    detail: 'limit: must be a whole number from 1 to 200 (got 500)',
  },
  not_found: { means: 'nothing is there', detail: `upload ${id} was not found` },
  conflict: {
    means: 'what is there just now does not allow it; `detail` says why',
    detail: 'a request with this Idempotency-Key is under way',
  },
  file_too_large: { means: 'the body is too large', detail: 'an upload may have 2048 MB in all' },
  unsupported_media_type: {
    means: 'not a type that is taken here; of files, the content counts and not the name',
    detail: 'file 1 (notes.txt) is neither PDF, PNG nor JPEG by its content',
  },
  idempotency_mismatch: {
    means: 'the Idempotency-Key was used for another request',
    detail: 'this Idempotency-Key was used for another request',
  },
  dependency_cycle: {
    means: 'jobs of the batch wait for each other, as `cycle` shows',
    detail: 'these jobs wait for each other: a -> b -> a',
    members: { cycle: ['a', 'b', 'a'] },
  },
  unknown_dependency: {
    means: '`depends_on` names no job, or a part of one',
    detail: 'depends_on: there is no job report-7',
  },
  unknown_upload: {
    means: 'the payload names no upload',
    detail: `payload: there is no upload ${id}`,
  },
  exceeds_capacity: {
    means: 'no converter could ever hold the job',
    detail: 'resource_requirements: 64 CPU and 256 MB are more than any converter has (4 CPU and 8192 MB)',
  },
  unauthorized: { means: 'no key or token that is good', detail: 'this takes a key: Authorization: Bearer ...' },
  forbidden: {
    means:
      'the key or token lacks the scope that `scope` names; or the Host is no name of the service; or a page of another origin sent the request',
    detail: 'this takes the scope uploads:write',
    members: { scope: 'uploads:write' },
  },
  too_many_requests: { means: 'more than was agreed on', detail: 'more than 6000 requests in a minute' },
  forbidden_url: {
    means: 'nothing may be sent to `notify_url`',
    detail: 'notify_url: 169.254.169.254 is a link-local address',
  },
  internal: { means: 'a failure of the service', detail: 'an unexpected error; the log has the details' },
  unavailable: {
    means: 'not just now: something that it needs is out of reach, or too much waits already',
    detail: 'at most 10000 jobs may be ready, and 10000 are: send it again later',
  },
};

/** What every call can answer. */
const ALWAYS: Record<number, ErrorCode[]> = { 500: ['internal'], 503: ['unavailable'] };
/** And those that ask for a key where keys are configured. */
const GUARDED: Record<number, ErrorCode[]> = {
  401: ['unauthorized'],
  403: ['forbidden'],
  429: ['too_many_requests'],
};

/** The errors of a call: the codes that each status can have, besides those that every call can give. */
export function problems(codes: Record<number, ErrorCode[]>): ZodOpenApiResponsesObject {
  return toResponses({ ...codes, ...GUARDED, ...ALWAYS });
}

function toResponses(codes: Record<number, ErrorCode[]>): ZodOpenApiResponsesObject {
  return Object.fromEntries(Object.entries(codes).map(([status, codes]) => [status, problem(Number(status), codes)]));
}

const HEADERS_OF: Record<number, HeaderName[]> = {
  401: ['WWW-Authenticate'],
  429: ['Retry-After', 'RateLimit', 'RateLimit-Policy'],
  503: ['Retry-After'],
};

/** One error: a problem that has this status and one of these codes. */
export function problem(status: number, codes: ErrorCode[], headers: HeaderName[] = []): ZodOpenApiResponseObject {
  const always = HEADERS_OF[status] ?? [];
  return response(codes.map((code) => `\`${code}\`: ${CODES[code]?.means}`).join('; '), [...always, ...headers], {
    'application/problem+json': {
      schema: {
        allOf: [reference('schemas', 'Problem'), { properties: { status: { const: status }, code: { enum: codes } } }],
      },
      examples: Object.fromEntries(codes.map((code) => [code, { value: example(status, code) }])),
    },
  });
}

function example(status: number, code: ErrorCode): unknown {
  const { detail = '', members = {} } = CODES[code] ?? {};
  return problemOf(new AppError(code, detail, { status, details: members }), '7d0f4a52-5a3c-4e0e-9d2c-0f6f3b8d1e11');
}

function reference(kind: 'headers' | 'schemas', name: string) {
  return { $ref: `#/components/${kind}/${name}` };
}

/** What a call that is open to everybody says of itself. */
export const open = { security: [], responses: toResponses({ 403: ['forbidden'], ...ALWAYS }) };
/** The same of what answers under any Host. */
export const probe = { security: [], responses: toResponses(ALWAYS) };
