import express, { type Request, type RequestHandler } from 'express';
import { AppError } from '../../errors.ts';
import { invalid } from '../problem.ts';

/** Levels of objects and arrays in a body: a batch, its jobs, and what a payload may have. */
const DEEPEST = 110;

/** Reads a body of JSON, an object or an array, of at most `limit` (such as `1mb`). Throws 400, 413 or 415. */
export function jsonBody(limit: string): RequestHandler[] {
  return [
    function expectJson(request: Request, _response: unknown, next: () => void) {
      if (!request.is('application/json')) {
        throw new AppError('unsupported_media_type', 'send JSON as application/json', { status: 415 });
      }
      next();
    },
    express.json({ limit }),
    function refuseDeep(request: Request, _response: unknown, next: () => void) {
      if (isDeeperThan(DEEPEST, request.body)) throw invalid('the body is nested too deep');
      next();
    },
  ];
}

function isDeeperThan(levels: number, value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return levels === 0 || Object.values(value).some((member) => isDeeperThan(levels - 1, member));
}
