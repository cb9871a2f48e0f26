import { createHash } from 'node:crypto';
import type { Request, RequestHandler, Response } from 'express';
import type { Database, Queryable } from '../../db/client.ts';
import { type Answer, freeKey, holdKey, keepAnswers, takeKey } from '../../db/idempotency.ts';
import { AppError } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';
import { callerOf } from './admission.ts';
import { parse } from './problem.ts';
import { idempotencyKey } from './schemas.ts';

const HOLD_MS = 10_000;

/** What a handler asks about its request's Idempotency-Key. Without one, nothing is ever known. */
export interface Idempotency {
  /** The first answer, if the key was used for the same request. Throws 422 if it was used for another. */
  known(fingerprint: string): Answer | undefined;
  /** Undefined without one. */
  key: { owner: string; key: string } | undefined;
}

const requests = new WeakMap<Request, Idempotency>();
const NONE: Idempotency = { known: () => undefined, key: undefined };
/** Responses whose answer was kept, so that their key is never freed. */
const answered = new WeakSet<Response>();

/**
 * Holds the request's Idempotency-Key from before the body is read: 409 while another request has it. It is freed
 * when the request ends without an answer to keep.
 */
export function idempotent({ db, log }: { db: Database; log: Logger }): RequestHandler {
  return async function holdIdempotencyKey(request, response, next) {
    const key = request.get('Idempotency-Key');
    if (key === undefined) return next();
    parse(idempotencyKey, key, 'Idempotency-Key');
    // Heard from now on: a client may go away while the key is being taken.
    const closed = new Promise((resolve) => response.once('close', resolve));
    // Keys belong to their owner; where nobody is asked for one, all are one.
    const owner = callerOf(request).owner ?? '';
    const taken = await takeKey(db, owner, key);
    // The connection stays open: Node reads the rest of the body away, so that a client in the middle of it sees the answer.
    if (taken === 'in progress') throw underWay();
    if (taken === 'new') {
      const { requestId } = response.locals;
      const ignore = (error: unknown) =>
        log.warn({ err: error, request: requestId }, 'idempotency key not held or freed');
      const holding = setInterval(() => void holdKey(db, owner, key).catch(ignore), HOLD_MS);
      void closed.then(() => {
        clearInterval(holding);
        return answered.has(response) ? undefined : freeKey(db, owner, key).catch(ignore);
      });
    }
    requests.set(request, {
      known(fingerprint) {
        if (taken === 'new') return undefined;
        if (taken.fingerprint === fingerprint) return taken.answer;
        throw new AppError('idempotency_mismatch', 'this Idempotency-Key was used for another request', {
          status: 422,
        });
      },
      key: { owner, key },
    });
    next();
  };
}

/** The answer to a request, which is kept if the request has an Idempotency-Key. */
export interface RequestAnswer {
  idempotency: Idempotency;
  fingerprint: string;
  answer: Answer;
}

/** Keeps answers in the transaction that does what they say. */
export async function keepForKeys(tx: Queryable, answers: RequestAnswer[]): Promise<void> {
  const kept = answers.flatMap(({ idempotency: { key }, ...answer }) => (key ? [{ ...key, ...answer }] : []));
  // A key is lost when this process stood still for long: then what the other request did counts.
  if (!(await keepAnswers(tx, kept))) throw underWay();
}

/** What tells two requests apart, whatever the order of their members: of anything that was parsed from JSON. */
export function fingerprintOf(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value, sortMembers)).digest('hex');
}

function sortMembers(_key: string, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
}

export function idempotencyOf(request: Request): Idempotency {
  return requests.get(request) ?? NONE;
}

/** Sends an answer that is committed. */
export function sendAnswer(response: Response, { status, location, body }: Answer): void {
  answered.add(response);
  if (location !== null) response.location(location);
  response.status(status).json(body);
}

function underWay(): AppError {
  return new AppError('conflict', 'a request with this Idempotency-Key is under way', { status: 409 });
}
