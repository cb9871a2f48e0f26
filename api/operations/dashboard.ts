import path from 'node:path';
import express, { Router } from 'express';
import { notFound } from '../http/problem.ts';

/** What `npm run build` makes of dashboard/. */
const BUILT = path.join(import.meta.dirname, '../../dashboard/dist');

/** The dashboard, a page at `/`; its scripts and styles carry a hash of their content in their names. */
export function dashboardRoutes(): Router {
  const router = Router();
  router.get('/', (_request, response, next) => {
    response.set('Cache-Control', 'no-cache');
    response.sendFile('index.html', { root: BUILT, acceptRanges: false }, (error) => {
      if (error && !response.headersSent) next(notFound('the dashboard: it is not built (npm run build)'));
    });
  });
  router.use('/assets', express.static(path.join(BUILT, 'assets'), { index: false, immutable: true, maxAge: '1y' }));
  return router;
}
