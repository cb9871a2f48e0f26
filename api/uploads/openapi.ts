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
  file: z
    .array(z.file())
    .min(1)
    .max(20)
    .describe(
      'PDF, PNG and JPEG files, at most 20. Originals keep this order. The content decides the type, not the name',
    ),
});

const cacheHeaders = ['Accept-Ranges', 'Cache-Control'] as const;

const download = (
  file: string,
  operationId: string,
  parameters: z.ZodRawShape,
  types: string[],
): ZodOpenApiOperationObject => {
  const content = Object.fromEntries(types.map((type) => [type, { schema: z.file() }]));
  return {
    tags,
    operationId,
    summary: `Download ${file}`,
    description: 'The bytes never change. Conditional requests, range requests and permanent caching are supported.',
    requestParams: {
      path: path.extend(parameters),
      header: z.object({
        Range: z.string().optional().describe('The range of bytes, such as `bytes=0-999`'),
        'If-Range': z
          .string()
          .optional()
          .describe('The range applies only if the file has this `ETag`; otherwise the whole file is sent'),
        'If-None-Match': z.string().optional().describe('The `ETag` of the copy that the client has'),
        'If-Match': z.string().optional().describe('The `ETag` that the file must have'),
      }),
    },
    responses: {
      200: response('The whole file', ['ETag', 'Content-Length', 'Content-Disposition', ...cacheHeaders], content),
      206: response(
        'The requested range',
        ['ETag', 'Content-Length', 'Content-Range', 'Content-Disposition', ...cacheHeaders],
        content,
      ),
      304: response('Not modified: the copy of the client is current', [
        'ETag',
        'Content-Disposition',
        ...cacheHeaders,
      ]),
      307: response('Redirect to a pre-signed URL, valid for a few minutes; send no key there', [
        'Location',
        ...cacheHeaders,
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
        'Stores the files and answers with an ID before the conversion. Each file becomes PNG pages below 3500 x 3500 pixels.',
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
      summary: 'List uploads, newest first',
      requestParams: { query: uploadList },
      responses: {
        200: json('A page of uploads', responses.uploadList, examples.uploadList),
        ...problems({ 400: ['invalid_request'] }),
      },
    },
  },
  '/uploads/{id}': {
    get: {
      tags,
      operationId: 'getUpload',
      summary: 'Get an upload with its originals and its first 200 pages',
      description: '`GET /uploads/{id}/pages` with `pages_next_cursor` lists the other pages.',
      requestParams: { path, header: waits },
      responses: {
        200: json('The upload. Pages are added while it is processed', responses.upload, examples.upload, [
          'Retry-After',
          'Preference-Applied',
        ]),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
    delete: {
      tags,
      operationId: 'deleteUpload',
      summary: 'Delete an upload with all its files, even while it is processed',
      requestParams: { path },
      responses: {
        204: response('Deleted'),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/uploads/{id}/status': {
    get: {
      tags,
      operationId: 'getUploadStatus',
      summary: 'Get the status and progress of an upload',
      requestParams: { path, header: waits },
      responses: {
        200: json('The status', responses.uploadStatus, examples.uploadStatus, ['Retry-After', 'Preference-Applied']),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/uploads/{id}/cancel': {
    post: {
      tags,
      operationId: 'cancelUpload',
      summary: 'Cancel an upload that has not ended',
      description: 'Running work is aborted within a second. Completed pages stay.',
      requestParams: { path },
      responses: {
        200: json('The cancelled upload', responses.upload, examples.upload),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'], 409: ['conflict'] }),
      },
    },
  },
  '/uploads/{id}/retry': {
    post: {
      tags,
      operationId: 'retryUpload',
      summary: 'Run a failed or cancelled upload again',
      description:
        'Converts only the pages that are missing. The password is deleted when an upload ends, so an encrypted PDF fails again.',
      requestParams: { path },
      responses: {
        200: json('The upload, which is processed again', responses.upload, examples.upload),
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
        200: json('A page of webhooks, oldest first', webhookResponses.webhookList, examples.webhookList),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/uploads/{id}/archive.zip': {
    get: {
      tags,
      operationId: 'getArchive',
      summary: 'Download all completed pages as a zip, once the upload has ended',
      requestParams: {
        path,
        header: z.object({
          'If-None-Match': z.string().optional().describe('The `ETag` of the copy that the client has'),
        }),
      },
      responses: {
        200: response(
          'A zip with one PNG for each page, such as `1-0001.png`',
          ['ETag', 'Content-Length', 'Content-Disposition', 'Cache-Control'],
          {
            'application/zip': { schema: z.file() },
          },
        ),
        304: response('Not modified: the copy of the client is current', [
          'ETag',
          'Content-Disposition',
          'Cache-Control',
        ]),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'], 409: ['conflict'] }),
      },
    },
  },
  '/uploads/{id}/pages': {
    get: {
      tags,
      operationId: 'listPages',
      summary: 'List the pages of an upload, in order',
      description: 'While the upload is processed, pages before the cursor can be added later.',
      requestParams: { path, query: pageList },
      responses: {
        200: json('A page of this list', responses.uploadPages, examples.uploadPages),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/uploads/{id}/pages/{original}/{page}.png': {
    get: download('a page', 'getPage', { original: ordinal, page: ordinal }, ['image/png']),
  },
  '/uploads/{id}/originals': {
    get: {
      tags,
      operationId: 'listOriginals',
      summary: 'List the originals of an upload, in order',
      requestParams: { path },
      responses: {
        200: json('All originals', responses.uploadOriginals, examples.uploadOriginals),
        ...problems({ 400: ['invalid_request'], 404: ['not_found'] }),
      },
    },
  },
  '/uploads/{id}/originals/{original}': {
    get: download('an original', 'getOriginal', { original: ordinal }, responses.original.shape.media_type.options),
  },
};
