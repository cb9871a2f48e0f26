import type { z } from 'zod';
import type { oas31, ZodOpenApiResponseObject, ZodOpenApiResponsesObject } from 'zod-openapi';
import type { ErrorCode } from '../../runtime/errors.ts';

const text = { type: 'string' } as const;

/** The headers of all answers, as components of the document. */
export const HEADERS = {
  'X-Request-Id': { description: 'Id of the request in the log', required: true, schema: { ...text, format: 'uuid' } },
  'Retry-After': {
    description: 'Seconds to wait before the next request. An answer with a status has it until the end',
    schema: { type: 'integer' },
  },
  'Preference-Applied': { description: 'Maximum wait applied', schema: text },
  'Content-Disposition': { description: "File name, made from the client's file name", schema: text },
  'WWW-Authenticate': { required: true, schema: { const: 'Bearer' } },
  RateLimit: { description: 'Remaining requests, and seconds until the window ends', schema: text },
  'RateLimit-Policy': { description: 'Quota and window', schema: text },
  Location: { description: 'URL of the resource; not set for a batch', schema: { ...text, format: 'uri-reference' } },
  'Content-Length': { required: true, schema: { type: 'integer' } },
  'Content-Range': { description: 'Range of the bytes, and total size', required: true, schema: text },
  'Accept-Ranges': { required: true, schema: { const: 'bytes' } },
  ETag: {
    description: 'Hash of the content. That of a page or an original is its SHA-256',
    required: true,
    schema: { ...text, pattern: '^"[0-9a-f]{64}"$' },
  },
  'Cache-Control': { required: true, schema: text },
  Upgrade: { required: true, schema: { const: 'websocket' } },
} as const satisfies Record<string, oas31.HeaderObject>;

type HeaderName = keyof typeof HEADERS;

/** Describes an answer with its headers and, unless it has none, its content. */
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

/** Describes an answer in JSON. */
export function json(description: string, schema: z.ZodType, headers: HeaderName[] = []): ZodOpenApiResponseObject {
  return response(description, headers, { 'application/json': { schema } });
}

/** The meaning of each code that a problem can have. */
const MEANINGS: Partial<Record<ErrorCode, string>> = {
  invalid_request: 'the request is invalid; `detail` names the field and what is valid',
  not_found: 'the resource does not exist',
  conflict: 'the current state does not allow the request; `detail` gives the reason',
  file_too_large: 'the body is too large',
  unsupported_media_type: 'the media type is not supported; the content of a file decides, not its name',
  idempotency_mismatch: 'the Idempotency-Key was used for another request',
  dependency_cycle: 'jobs of the batch depend on each other; `cycle` lists them',
  unknown_dependency: '`depends_on` names a job that does not exist, or a child of another job',
  unknown_upload: 'the payload names an upload that does not exist',
  exceeds_capacity: 'no converter has enough capacity for the job',
  unauthorized: 'the API key or token is missing or invalid',
  forbidden:
    'the key or token lacks the scope named in `scope`, the Host is not a name of the service, or a page of another origin sent the request',
  too_many_requests: 'a rate limit or quota is exceeded',
  forbidden_url: 'the host in `notify_url` is not an allowed receiver',
  internal: 'an unexpected error in the service',
  unavailable: 'the service is overloaded, or a dependency is unreachable; retry later',
};

/** Errors of every call. */
const ALWAYS: Record<number, ErrorCode[]> = { 500: ['internal'], 503: ['unavailable'] };
/** Errors of every call that requires a key or token if any are configured. */
const GUARDED: Record<number, ErrorCode[]> = {
  401: ['unauthorized'],
  403: ['forbidden'],
  429: ['too_many_requests'],
};

/** Describes the errors of a call: its codes by status, and the errors that every call can have. */
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

/** Describes a problem with this status and one of these codes. */
export function problem(status: number, codes: ErrorCode[], headers: HeaderName[] = []): ZodOpenApiResponseObject {
  const always = HEADERS_OF[status] ?? [];
  return response(codes.map((code) => `\`${code}\`: ${MEANINGS[code]}`).join('; '), [...always, ...headers], {
    'application/problem+json': {
      schema: {
        allOf: [reference('schemas', 'Problem'), { properties: { status: { const: status }, code: { enum: codes } } }],
      },
    },
  });
}

function reference(kind: 'headers' | 'schemas', name: string) {
  return { $ref: `#/components/${kind}/${name}` };
}

/** Security and errors of a call that needs no key. */
export const open = { security: [], responses: toResponses({ 403: ['forbidden'], ...ALWAYS }) };
/** Security and errors of a call that needs no key and accepts any Host. */
export const probe = { security: [], responses: toResponses(ALWAYS) };
