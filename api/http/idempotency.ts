import { createHash } from 'node:crypto';
import type { Request, RequestHandler, Response } from 'express';
import { z } from 'zod';
import type { Database, Queryable } from '../../db/client.ts';
import { type Answer, freeKey, holdKey, keepAnswers, takeKey } from '../../db/idempotency.ts';
import { AppError } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';
import { callerOf, type Idempotency, stateOf } from './request-state.ts';
import { parse } from './validate.ts';

/** How often the lock of a key is renewed while its request is in progress. */
const HOLD_MS = 10_000;

export const idempotencyKey = z
  .string()
  .regex(/^[\x20-\x7e]{1,255}$/, 'must be 1 to 255 printable ASCII characters')
  .describe(
    'A value of your choice that makes a repeat safe for a day: the same request with the same key gets the first answer again',
  );

/**
 * Locks the Idempotency-Key of a request before its body is read; 409 while another request holds it. The key is freed when
 * the request ends without an answer to keep.
 */
export function idempotent({ db, log }: { db: Database; log: Logger }): RequestHandler {
  return async function holdIdempotencyKey(request, response, next) {
    const text = request.get('Idempotency-Key');
    if (text === undefined) return next();
    // Listen before the key is taken: the client may disconnect meanwhile.
    const closed = new Promise((resolve) => response.once('close', resolve));
    // Keys belong to their owner. Without authentication all requests share one owner.
    const key = { owner: callerOf(request).owner ?? '', key: parse(idempotencyKey, text, 'Idempotency-Key') };
    const taken = await takeKey(db, key.owner, key.key);
    if (taken === 'in progress') throw inProgress();
    const idempotency: Idempotency = {
      key,
      known(fingerprint) {
        if (taken === 'new') return undefined;
        if (taken.fingerprint === fingerprint) return taken.answer;
        const message = 'Idempotency-Key: was used for another request; send another key';
        throw new AppError('idempotency_mismatch', message, { status: 422 });
      },
      isAnswerKept: taken !== 'new',
    };
    stateOf(request).idempotency = idempotency;
    if (taken === 'new') void holdUntil(closed, db, idempotency, key, log.child({ request: stateOf(request).id }));
    next();
  };
}

/** Renews the lock of a key until the request ends, then frees the key unless an answer was kept. Never rejects. */
async function holdUntil(
  closed: Promise<unknown>,
  db: Database,
  idempotency: Idempotency,
  { owner, key }: { owner: string; key: string },
  log: Logger,
): Promise<void> {
  const warn = (error: unknown) => log.warn({ err: error }, 'idempotency key not renewed or freed');
  const renewing = setInterval(() => void holdKey(db, owner, key).catch(warn), HOLD_MS);
  await closed;
  clearInterval(renewing);
  if (!idempotency.isAnswerKept) await freeKey(db, owner, key).catch(warn);
}

const NO_KEY: Idempotency = { key: undefined, known: () => undefined, isAnswerKept: false };

export function idempotencyOf(request: Request): Idempotency {
  return stateOf(request).idempotency ?? NO_KEY;
}

/** An answer that is kept if its request has an Idempotency-Key. */
export interface RequestAnswer {
  idempotency: Idempotency;
  fingerprint: string;
  answer: Answer;
}

/** Keeps answers in the transaction that makes the changes which they describe. */
export async function keepForKeys(tx: Queryable, answers: RequestAnswer[]): Promise<void> {
  const kept = answers.flatMap(({ idempotency: { key }, fingerprint, answer }) =>
    key ? [{ ...key, fingerprint, answer }] : [],
  );
  // The lock of a key can expire while this process is stopped: the answer of the other request is then the valid one.
  if (!(await keepAnswers(tx, kept))) throw inProgress();
}

/** Identifies a request by its JSON, independent of the order of members. */
export function fingerprintOf(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value, sortMembers)).digest('hex');
}

function sortMembers(_key: string, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Sends an answer that is committed. */
export function sendAnswer(response: Response, { status, location, body }: Answer): void {
  const { idempotency } = stateOf(response.req);
  if (idempotency !== undefined) idempotency.isAnswerKept = true;
  if (location !== null) response.location(location);
  response.status(status).json(body);
}

function inProgress(): AppError {
  return new AppError('conflict', 'a request with this Idempotency-Key is in progress', { status: 409 });
}
