import { readFile } from 'node:fs/promises';
import path from 'node:path';
import express, { Router } from 'express';
import swaggerUi from 'swagger-ui-dist/absolute-path.js';

const PAGE = path.join(import.meta.dirname, './docs');

/** Allows only files of this service and no inline script. Icons are `data:`, and downloaded images are `blob:`. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data: blob:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

/** Serves the OpenAPI document, and a page that shows it without loading anything from the Internet. */
export function documentationRoutes(): Router {
  const router = Router();
  let document: string | undefined;

  router.get('/openapi.json', async (_request, response) => {
    // Few processes are asked for the document, and its modules are large.
    document ??= JSON.stringify((await import('../openapi/document.ts')).openapiDocument());
    response.type('application/json').send(document);
  });

  router.get('/docs', async (_request, response) => {
    const page = await readFile(path.join(PAGE, 'index.html'));
    response.set('Content-Security-Policy', POLICY).type('text/html').send(page);
  });
  router.use('/docs', express.static(PAGE, { index: false }), express.static(swaggerUi(), { index: false }));

  return router;
}
