import { z } from 'zod';
import type { ZodOpenApiOperationObject, ZodOpenApiPathsObject } from 'zod-openapi';
import { idempotencyKey } from '../http/idempotency.ts';
import { prefer } from '../http/prefer.ts';
import { json, problem, problems, response } from '../openapi/responses.ts';
import { webhookList } from '../webhooks/requests.ts';
import * as webhookDocuments from '../webhooks/responses.ts';
import { ordinal, pageList, uploadFields, uploadList } from './requests.ts';
import * as answers from './responses.ts';

const tags = ['Uploads'];
const path = z.object({ id: z.uuid() });

const waits = z.object({ Prefer: prefer.optional() });

const form = uploadFields.extend({
  file: z
    .array(z.file())
    .min(1)
    .max(20)
    .describe('PDF, PNG and JPEG files, in the order of the originals. The content decides the type, not the name'),
});

const kept = ['Accept-Ranges', 'Cache-Control'] as const;

const bytesOf = (
  what: string,
  operationId: string,
  parameters: z.ZodRawShape,
  types: string[],
): ZodOpenApiOperationObject => {
  const content = Object.fromEntries(types.map((type) => [type, { schema: z.file() }]));
  return {
    tags,
    operationId,
    summary: `Download ${what}`,
    description: 'The bytes never change, so they may be cached forever. Supports conditional requests and ranges.',
    requestParams: {
      path: path.extend(parameters),
      header: z.object({
        Range: z.string().optional().describe('The range to send, such as `bytes=0-999`'),
        'If-Range': z
          .string()
          .optional()
          .describe('Sends the range only if the file has this `ETag`, else the whole file'),
        'If-None-Match': z.string().optional().describe('The `ETag` of the cached copy'),
        'If-Match': z.string().optional().describe('The `ETag` that the file must have'),
      }),
    },
    responses: {
      200: response('The whole file', ['ETag', 'Content-Length', 'Content-Disposition', ...kept], content),
      206: response('The range', ['ETag', 'Content-Length', 'Content-Range', 'Content-Disposition', ...kept], content),
      304: response('The cached copy is current', ['ETag', 'Content-Disposition', ...kept]),
      307: response('Redirect to a pre-signed URL of the file, valid for 10 minutes', ['Location', ...kept]),
      ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      412: problem(412, ['invalid_request'], ['Accept-Ranges']),
      416: problem(416, ['invalid_request'], ['Accept-Ranges', 'Content-Range']),
    },
  };
};

export const uploadPaths: ZodOpenApiPathsObject = {
  '/uploads': {
    post: {
      tags,
      operationId: 'createUpload',
      summary: 'Upload files',
      description:
        'Answers when the files are stored, before they are converted. Every file becomes PNG pages below 3500 x 3500 pixels.',
      requestParams: { header: z.object({ 'Idempotency-Key': idempotencyKey.optional() }) },
      requestBody: {
        required: true,
        content: {
          'multipart/form-data': {
            schema: form,
            encoding: { file: { contentType: 'application/pdf, image/png, image/jpeg' } },
          },
        },
      },
      responses: {
        200: json('The upload', answers.upload, ['Location']),
        ...problems({
          400: ['invalid_request'],
          409: ['conflict'],
          413: ['file_too_large'],
          415: ['unsupported_media_type'],
          422: ['idempotency_mismatch', 'forbidden_url'],
        }),
      },
    },
    get: {
      tags,
      operationId: 'listUploads',
      summary: 'List uploads, newest first',
      requestParams: { query: uploadList },
      responses: {
        200: json('A page of uploads', answers.uploadList),
        ...problems({ 400: ['invalid_request'] }),
      },
    },
  },
  '/uploads/{id}': {
    get: {
      tags,
      operationId: 'getUpload',
      summary: 'Get an upload with its originals and first 200 pages',
      description:
        'Pages appear while the upload is converted. `GET /uploads/{id}/pages` with `pages_next_cursor` gives the other pages.',
      requestParams: { path, header: waits },
      responses: {
        200: json('The upload', answers.upload, ['Retry-After', 'Preference-Applied']),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
    delete: {
      tags,
      operationId: 'deleteUpload',
      summary: 'Delete an upload and all its files, in any status',
      requestParams: { path },
      responses: {
        204: response('The upload is deleted'),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/uploads/{id}/status': {
    get: {
      tags,
      operationId: 'getUploadStatus',
      summary: 'Get the status of an upload',
      requestParams: { path, header: waits },
      responses: {
        200: json('The status', answers.uploadStatus, ['Retry-After', 'Preference-Applied']),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/uploads/{id}/cancel': {
    post: {
      tags,
      operationId: 'cancelUpload',
      summary: 'Cancel an upload that has not ended',
      description: 'Running attempts are aborted within a second. Completed pages are kept.',
      requestParams: { path },
      responses: {
        200: json('The cancelled upload', answers.upload),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'], 409: ['conflict'] }),
      },
    },
  },
  '/uploads/{id}/retry': {
    post: {
      tags,
      operationId: 'retryUpload',
      summary: 'Run a failed or cancelled upload again',
      description: 'Converts only the missing pages. Passwords are not kept, so an encrypted PDF fails again.',
      requestParams: { path },
      responses: {
        200: json('The restarted upload', answers.upload),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'], 409: ['conflict'] }),
      },
    },
  },
  '/uploads/{id}/webhooks': {
    get: {
      tags,
      operationId: 'listUploadWebhooks',
      summary: 'List the webhooks of an upload with their delivery attempts',
      requestParams: { path, query: webhookList },
      responses: {
        200: json('A page of webhooks, oldest first', webhookDocuments.webhookList),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/uploads/{id}/archive.zip': {
    get: {
      tags,
      operationId: 'getArchive',
      summary: 'Download all completed pages of an ended upload as a zip',
      requestParams: {
        path,
        header: z.object({
          'If-None-Match': z.string().optional().describe('The `ETag` of the cached copy'),
        }),
      },
      responses: {
        200: response(
          'The zip; its files are named `1-0001.png` (original and page)',
          ['ETag', 'Content-Length', 'Content-Disposition', 'Cache-Control'],
          {
            'application/zip': { schema: z.file() },
          },
        ),
        304: response('The cached copy is current', ['ETag', 'Content-Disposition', 'Cache-Control']),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'], 409: ['conflict'] }),
      },
    },
  },
  '/uploads/{id}/pages': {
    get: {
      tags,
      operationId: 'listPages',
      summary: 'List the pages of an upload in order',
      description: 'While an upload is processed, pages before the cursor may still be added.',
      requestParams: { path, query: pageList },
      responses: {
        200: json('A page of the list', answers.uploadPages),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/uploads/{id}/pages/{original}/{page}.png': {
    get: bytesOf('a page', 'getPage', { original: ordinal, page: ordinal }, ['image/png']),
  },
  '/uploads/{id}/originals': {
    get: {
      tags,
      operationId: 'listOriginals',
      summary: 'List the originals of an upload in order',
      requestParams: { path },
      responses: {
        200: json('All originals', answers.uploadOriginals),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/uploads/{id}/originals/{original}': {
    get: bytesOf('an original', 'getOriginal', { original: ordinal }, answers.original.shape.media_type.options),
  },
};
