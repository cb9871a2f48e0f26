import type { RequestHandler } from 'express';
import { Quota } from '../../runtime/quota.ts';
import { callerOf } from '../http/request-state.ts';
import { releaseOnClose } from '../http/requester.ts';

/** Uploads that one process receives at a time: each holds a connection, a file, and a part in memory. */
const MAX_UPLOADS = 1_000;

/** Refuses an upload before its body is read while the caller sends `maxPerRequester` others, or all callers 1,000. */
export function limitConcurrentUploads(maxPerRequester: number): RequestHandler {
  const room = new Quota({ name: 'uploads', max: Math.max(MAX_UPLOADS, maxPerRequester), maxPerRequester });

  return function limitUploads(request, response, next) {
    releaseOnClose(response, room.take(callerOf(request).requester));
    next();
  };
}
