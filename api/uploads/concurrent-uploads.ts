import type { RequestHandler } from 'express';
import { Quota } from '../../runtime/quota.ts';
import { callerOf, stopReading } from '../http/admission.ts';
import { giveOnClose, holderOf } from '../http/holder.ts';

/** Uploads that one process receives at a time: each holds a connection, a file, and a part in memory. */
const MAX_UPLOADS = 1_000;

/**
 * Refuses an upload, before its body is read, while this process receives too many: `maxPerRequester` of one caller, or 1,000
 * in all.
 */
export function limitConcurrentUploads(maxPerRequester: number): RequestHandler {
  const room = new Quota({ name: 'uploads', max: Math.max(MAX_UPLOADS, maxPerRequester), maxPerRequester });

  return function limitUploads(request, response, next) {
    try {
      giveOnClose(response, room.take(holderOf(callerOf(request))));
    } catch (error) {
      stopReading(request, response);
      throw error;
    }
    next();
  };
}
