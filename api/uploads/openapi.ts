import { z } from 'zod';
import type { ZodOpenApiOperationObject, ZodOpenApiPathsObject } from 'zod-openapi';
import { idempotencyKey } from '../http/idempotency.ts';
import { prefer } from '../http/prefer.ts';
import * as examples from '../openapi/examples.ts';
import { json, problem, problems, response } from '../openapi/responses.ts';
import { webhookList } from '../webhooks/requests.ts';
import * as webhookResponses from '../webhooks/responses.ts';
import { ordinal, pageList, uploadFields, uploadList } from './requests.ts';
import * as responses from './responses.ts';

const tags = ['Uploads'];
const path = z.object({ id: z.uuid() });

const waits = z.object({ Prefer: prefer.optional() });

const form = uploadFields.extend({
  file: z.array(z.file()).min(1).max(20).describe('PDFs, PNGs and JPEGs. Their order counts, their names do not'),
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
    summary: `The bytes of ${what}`,
    description:
      'They never change: conditional requests and ranges are answered, and the answer may be kept for good.',
    requestParams: {
      path: path.extend(parameters),
      header: z.object({
        Range: z.string().optional().describe('The bytes wanted, such as `bytes=0-999`'),
        'If-Range': z.string().optional().describe('The range counts only if the file still has this `ETag`'),
        'If-None-Match': z.string().optional().describe('The `ETag` of what the client has already'),
        'If-Match': z.string().optional().describe('The `ETag` that the file must have'),
      }),
    },
    responses: {
      200: response('All of it', ['ETag', 'Content-Length', 'Content-Disposition', ...kept], content),
      206: response('The range', ['ETag', 'Content-Length', 'Content-Range', 'Content-Disposition', ...kept], content),
      304: response('The client has it already', ['ETag', 'Content-Disposition', ...kept]),
      307: response('All of it, or the range, is to be had there for some minutes, without a key', [
        'Location',
        ...kept,
      ]),
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
        'The answer comes once the files are stored, and before they are converted. Every file becomes PNG pages below 3500 x 3500 pixels.',
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
        200: json('The upload', responses.upload, examples.queuedUpload, ['Location']),
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
      summary: 'Uploads, the newest first',
      requestParams: { query: uploadList },
      responses: {
        200: json('Some of them', responses.uploadList, examples.uploadList),
        ...problems({ 400: ['invalid_request'] }),
      },
    },
  },
  '/uploads/{id}': {
    get: {
      tags,
      operationId: 'getUpload',
      summary: 'An upload with its originals and its first 200 pages',
      description: '`GET /uploads/{id}/pages` with `pages_next_cursor` gives the other pages.',
      requestParams: { path, header: waits },
      responses: {
        200: json('All of it; pages appear while the rest still converts', responses.upload, examples.upload, [
          'Retry-After',
          'Preference-Applied',
        ]),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
    delete: {
      tags,
      operationId: 'deleteUpload',
      summary: 'Remove an upload and all its files, also while it is at work',
      requestParams: { path },
      responses: {
        204: response('It is gone'),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/uploads/{id}/status': {
    get: {
      tags,
      operationId: 'getUploadStatus',
      summary: 'How far an upload is',
      requestParams: { path, header: waits },
      responses: {
        200: json('Its status', responses.uploadStatus, examples.uploadStatus, ['Retry-After', 'Preference-Applied']),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/uploads/{id}/cancel': {
    post: {
      tags,
      operationId: 'cancelUpload',
      summary: 'Cancel an upload that has not ended',
      description: 'What runs is aborted within a second; good pages stay.',
      requestParams: { path },
      responses: {
        200: json('The upload, cancelled', responses.upload, examples.upload),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'], 409: ['conflict'] }),
      },
    },
  },
  '/uploads/{id}/retry': {
    post: {
      tags,
      operationId: 'retryUpload',
      summary: 'Run a failed or cancelled upload again',
      description: 'Only the pages are made that are not there. A password is not kept: an encrypted PDF fails again.',
      requestParams: { path },
      responses: {
        200: json('The upload, at work again', responses.upload, examples.upload),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'], 409: ['conflict'] }),
      },
    },
  },
  '/uploads/{id}/webhooks': {
    get: {
      tags,
      operationId: 'listUploadWebhooks',
      summary: 'What was told to its `notify_url`, with each attempt',
      requestParams: { path, query: webhookList },
      responses: {
        200: json('In the order of its ends', webhookResponses.webhookList, examples.webhookList),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/uploads/{id}/archive.zip': {
    get: {
      tags,
      operationId: 'getArchive',
      summary: 'All completed pages as a zip, once the upload has ended',
      requestParams: {
        path,
        header: z.object({
          'If-None-Match': z.string().optional().describe('The `ETag` of what the client has already'),
        }),
      },
      responses: {
        200: response('`1-0001.png` and so on', ['ETag', 'Content-Length', 'Content-Disposition', 'Cache-Control'], {
          'application/zip': { schema: z.file() },
        }),
        304: response('The client has it already', ['ETag', 'Content-Disposition', 'Cache-Control']),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'], 409: ['conflict'] }),
      },
    },
  },
  '/uploads/{id}/pages': {
    get: {
      tags,
      operationId: 'listPages',
      summary: 'The pages of an upload, in order',
      description: 'Also while it is processed: pages before the cursor may then be added later.',
      requestParams: { path, query: pageList },
      responses: {
        200: json('Some of them', responses.uploadPages, examples.uploadPages),
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
      summary: 'The originals of an upload, in order',
      requestParams: { path },
      responses: {
        200: json('All of them', responses.uploadOriginals, examples.uploadOriginals),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/uploads/{id}/originals/{original}': {
    get: bytesOf('an original', 'getOriginal', { original: ordinal }, responses.original.shape.media_type.options),
  },
};
