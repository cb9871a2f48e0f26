import { randomUUID } from 'node:crypto';
import type { Request } from 'express';
import type { Answer } from '../../db/idempotency.ts';
import type { Caller } from './caller.ts';

/** The Idempotency-Key of a request. */
export interface Idempotency {
  /** Undefined when the request has no key. */
  key: { owner: string; key: string } | undefined;
  /** Gives the first answer if the key was used before. Throws 422 if it was used for another request. */
  known(fingerprint: string): Answer | undefined;
  /** True once the answer is stored with the key, which is then not freed. */
  isAnswerKept: boolean;
}

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

export function callerOf(request: Request): Caller {
  const { caller } = stateOf(request);
  if (caller === undefined) throw new Error('the request was not authorized before its handler');
  return caller;
}
