import type { RequestHandler } from 'express';
import { callerOf, stopReading, tooMany } from '../admission.ts';

const RETRY_AFTER_SECONDS = 5;

/** Refuses an upload, before its body is read, while `most` others of the same caller are being received here. */
export function limitConcurrentUploads(most: number): RequestHandler {
  const underWay = new Map<string, number>();

  return function limitUploads(request, response, next) {
    const { countedAs } = callerOf(request);
    if (countedAs === undefined) return next();
    const others = underWay.get(countedAs) ?? 0;
    if (others >= most) {
      stopReading(request, response);
      throw tooMany(`${others} uploads are under way already`, RETRY_AFTER_SECONDS);
    }
    underWay.set(countedAs, others + 1);
    response.once('close', () => {
      const left = (underWay.get(countedAs) ?? 1) - 1;
      if (left === 0) underWay.delete(countedAs);
      else underWay.set(countedAs, left);
    });
    next();
  };
}
