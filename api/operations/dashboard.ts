import path from 'node:path';
import express, { Router } from 'express';
import { notFound } from '../http/problem.ts';

/** The output of `npm run build`. */
const BUILT = path.join(import.meta.dirname, '../../dashboard/dist');

/** Serves the dashboard at `/`. The names of its scripts and styles contain a hash, so they can be cached forever. */
export function dashboardRoutes(): Router {
  const router = Router();
  router.get('/', (_request, response, next) => {
    response.set('Cache-Control', 'no-cache');
    response.sendFile('index.html', { root: BUILT, acceptRanges: false }, (error) => {
      if (error && !response.headersSent) next(notFound('the dashboard (built by npm run build)'));
    });
  });
  router.use('/assets', express.static(path.join(BUILT, 'assets'), { index: false, immutable: true, maxAge: '1y' }));
  return router;
}
