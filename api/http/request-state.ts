import { randomUUID } from 'node:crypto';
import type { Request } from 'express';
import type { Caller } from './caller.ts';
import type { Idempotency } from './idempotency.ts';

/** The facts about one request that middleware collects for handlers, errors and the log. */
export interface RequestState {
  /** Names the request in answers, traces and the log. */
  readonly id: string;
  /** The W3C trace context for the jobs that the request creates. */
  traceparent: string | null;
  /** Set once the request is authorized. */
  caller: Caller | undefined;
  /** Set while the request holds an Idempotency-Key. */
  idempotency: Idempotency | undefined;
  /** Jobs of the batch that the request created, for its line in the log. */
  loggedJobs: string[] | undefined;
}

const states = new WeakMap<Request, RequestState>();

export function stateOf(request: Request): RequestState {
  let state = states.get(request);
  if (state === undefined) {
    state = {
      id: randomUUID(),
      traceparent: null,
      caller: undefined,
      idempotency: undefined,
      loggedJobs: undefined,
    };
    states.set(request, state);
  }
  return state;
}
