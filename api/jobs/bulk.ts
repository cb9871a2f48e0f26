import type { Request, Response } from 'express';
import { z } from 'zod';
import type { Database } from '../../db/client.ts';
import type { JobFilter } from '../../db/jobs.ts';
import type { Queues } from '../../db/queues.ts';
import type { BulkAction } from '../../db/schema.ts';
import { findBulk, startBulk } from '../../jobs/bulk.ts';
import type { Logger } from '../../runtime/log.ts';
import { type Caller, isVisible } from '../http/caller.ts';
import { notFound } from '../http/problem.ts';
import { callerOf } from '../http/request-state.ts';
import type { StatusCache } from '../http/status-cache.ts';
import { parse } from '../http/validate.ts';
import { bulkDocument } from './documents.ts';
import { type jobList, jobsToCancel, jobsToDelete, jobsToRetry } from './filters.ts';

export interface BulkParts {
  db: Database;
  queues: Queues;
  log: Logger;
  cache: StatusCache;
}

const FILTERS = { retry: jobsToRetry, cancel: jobsToCancel, delete: jobsToDelete };

/** `POST /jobs/retry`, `/jobs/cancel` and `/jobs/delete`: starts an operation on the jobs that match a filter. */
export function change(action: BulkAction) {
  return async function changeMatching(parts: BulkParts, request: Request, response: Response): Promise<void> {
    const caller = callerOf(request);
    const { status, ...query } = parse(FILTERS[action], request.body);
    const wanted = { owner: caller.owner, action, filter: { ...filterOf(query, caller), status } };
    const operation = await startBulk(parts.db, parts.queues, parts.log, wanted);
    await parts.cache.invalidate();
    response.location(`/jobs/bulk/${operation.id}`).json(bulkDocument(operation));
  };
}

/** `GET /jobs/bulk/{operation}`. */
export async function getOperation(
  { db }: BulkParts,
  request: Request<{ operation: string }>,
  response: Response,
): Promise<void> {
  const { operation: id } = request.params;
  const found = z.uuid().safeParse(id).success ? await findBulk(db, id) : undefined;
  if (found === undefined || !isVisible(found, callerOf(request))) throw notFound(`bulk operation ${id}`);
  response.json(bulkDocument(found));
}

/** Gives the filter of the engine for the filter of a request. */
export function filterOf(query: Omit<z.output<typeof jobList>, 'limit' | 'cursor'>, { sees }: Caller): JobFilter {
  const { upload_id, created_after, created_before, ...same } = query;
  return { ...same, owner: sees, uploadId: upload_id, createdAfter: created_after, createdBefore: created_before };
}
