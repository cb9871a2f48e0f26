import type { z } from 'zod';
import type { Event } from '../../db/events.ts';
import type { Progress } from '../../db/schema.ts';
import { formatTime } from '../http/fields.ts';
import type * as responses from './responses.ts';

/** A message of the stream: an event, or the progress of a job. */
export type StreamEvent = Pick<
  Event,
  'id' | 'owner' | 'kind' | 'jobId' | 'uploadId' | 'type' | 'status' | 'attempt' | 'data' | 'at'
> & { progress: { [name: string]: number | null } | Progress | null };

export function eventDocument(event: StreamEvent): z.output<typeof responses.event> {
  const { kind } = event;
  if (kind === 'log') throw new Error('log lines are not sent on the stream');
  return {
    id: event.id,
    kind,
    job_id: event.jobId,
    upload_id: event.uploadId,
    type: event.type,
    status: event.status,
    attempt: event.attempt,
    progress: event.progress && { ...event.progress },
    ...(kind === 'page' && event.data),
    at: formatTime(event.at),
  };
}
