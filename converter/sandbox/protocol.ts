import { z } from 'zod';
import { ENGINES } from '../../conversion/conversion-task.ts';
import { LOG_LEVELS } from '../../db/schema.ts';
import { isStorable } from '../../db/storable.ts';
import { MEMORY_CLASSES } from '../../jobs/shape.ts';
import { ERROR_CODES } from '../../runtime/errors.ts';
import { MAX_SIDE } from '../render/fit.ts';
import {
  MAX_DATA_LENGTH,
  MAX_DELAY_SECONDS,
  MAX_DETAIL_LENGTH,
  MAX_LINE_LENGTH,
  MAX_MESSAGE_LENGTH,
  MAX_RESULT_LENGTH,
} from '../report-limits.ts';
import type { TaskRequest } from '../run-task.ts';

/**
 * The messages between a converter and its sandbox, one line of JSON each. The converter uses no data of a sandbox before
 * `parseMessage` has validated it.
 */

/** Messages of the converter: run a task, and abort the running one. */
export type SandboxOrder = { kind: 'run'; request: TaskRequest } | { kind: 'abort'; reason: string };

/** A message that a correct sandbox never sends. Its text is only logged. */
export class Violation extends Error {}

const MAX_INT = 2 ** 31 - 1;
const MAX_REDUCED_LENGTH = 100;
const MAX_DPI = 600;
/** Ranges of a selection and parts of a split; `run-check.ts` compares them with the limits of the job. */
const MAX_ITEMS = 1_000_000;
/** Characters of a violation in the log. */
const MAX_REASON_LENGTH = 300;

const text = (maxLength: number) => z.string().max(maxLength).refine(isStorable, 'cannot be stored');
/** Stops at the first invalid item: a list of a million invalid items would cause a million issues. */
const list = <Item extends z.ZodType>(item: Item) =>
  z
    .array(z.unknown())
    .min(1)
    .max(MAX_ITEMS)
    .transform((items, context) => {
      const parsed: z.output<Item>[] = [];
      for (const given of items) {
        const { success, data } = item.safeParse(given);
        if (!success) {
          context.addIssue(`item ${parsed.length} is invalid`);
          return z.NEVER;
        }
        parsed.push(data);
      }
      return parsed;
    });
const record = (maxLength: number) =>
  z
    .record(z.string(), z.unknown())
    .refine(isStorable, { error: 'cannot be stored', abort: true })
    .refine((value) => JSON.stringify(value).length <= maxLength, 'too large');

const pageNumber = z.int().min(1).max(MAX_INT);
const pageRange = z.tuple([pageNumber, pageNumber]).refine(([from, to]) => from <= to, 'must ascend');
const error = z.strictObject({ code: z.enum(ERROR_CODES), message: text(MAX_MESSAGE_LENGTH) });
const side = z.int().min(1).max(MAX_SIDE);

const page = z.discriminatedUnion('status', [
  z.strictObject({
    page: pageNumber,
    status: z.literal('completed'),
    width: side,
    height: side,
    // The rounded dpi of a page of a kilometre is 0.
    dpi: z.number().min(0).max(MAX_DPI).nullable(),
    reduced: text(MAX_REDUCED_LENGTH).nullable(),
    engine: z.enum(ENGINES),
    note: text(MAX_MESSAGE_LENGTH).nullable(),
  }),
  z.strictObject({ page: pageNumber, status: z.literal('failed'), error }),
]);

const step = z.strictObject({ page: pageNumber.nullable(), engine: z.enum(ENGINES), last: z.boolean() });

const outcome = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('completed'), result: record(MAX_RESULT_LENGTH) }),
  z.strictObject({
    kind: z.literal('split'),
    parts: list(z.strictObject({ pages: list(pageRange), memoryMb: z.literal(MEMORY_CLASSES) })),
  }),
  z.strictObject({ kind: z.literal('snoozed'), seconds: z.number().min(1).max(MAX_DELAY_SECONDS) }),
  z.strictObject({
    kind: z.literal('failed'),
    error,
    retryable: z.boolean(),
    retryAfterSeconds: z.number().min(0).max(MAX_DELAY_SECONDS).optional(),
    detail: text(MAX_DETAIL_LENGTH).optional(),
  }),
]);

const message = z.discriminatedUnion('kind', [
  /** Sent once, after the libraries are loaded. */
  z.strictObject({ kind: z.literal('ready') }),
  /** Sent once after `ready`, unless a task arrives first. */
  z.strictObject({ kind: z.literal('warm') }),
  z.strictObject({
    kind: z.literal('inspected'),
    found: z.strictObject({ pageCount: pageNumber, selected: list(pageRange) }),
  }),
  z.strictObject({ kind: z.literal('page'), report: page }),
  z.strictObject({ kind: z.literal('step'), step }),
  z.strictObject({
    kind: z.literal('progress'),
    progress: z.strictObject({ done: z.number(), total: z.number().nullable() }),
  }),
  z.strictObject({
    kind: z.literal('log'),
    level: z.enum(LOG_LEVELS),
    message: text(MAX_LINE_LENGTH),
    data: record(MAX_DATA_LENGTH).optional(),
  }),
  z.strictObject({ kind: z.literal('ended'), outcome }),
]);

export type SandboxMessage = z.output<typeof message>;
/** Messages during a task. */
export type RunMessage = Exclude<SandboxMessage, { kind: 'ready' | 'warm' }>;

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Parses one line of a sandbox. Throws a `Violation` unless it is a valid message. */
export function parseMessage(line: Uint8Array): SandboxMessage {
  let value: unknown;
  try {
    value = JSON.parse(utf8.decode(line));
  } catch {
    throw new Violation('a line is not JSON');
  }
  const { data, error: refusal } = message.safeParse(value);
  if (data !== undefined) return data;
  const issue = refusal?.issues[0];
  const reason = [...(issue?.path ?? []), issue?.message].join(': ');
  throw new Violation(`invalid message: ${reason.slice(0, MAX_REASON_LENGTH)}`);
}
