import type { PageReport } from '../conversion/record-pages.ts';
import type { LogLevel, Progress } from '../db/schema.ts';
import { isStorable, storableText } from '../db/storable.ts';
import { textOf } from '../runtime/errors.ts';

/** The limits of the reports of a task. `run-task.ts` cuts reports to them, `sandbox/protocol.ts` refuses larger ones. */

/** Characters of JSON. */
export const MAX_RESULT_LENGTH = 256 * 1024;
export const MAX_DATA_LENGTH = 32 * 1024;
/** Characters. */
export const MAX_LINE_LENGTH = 10_000;
export const MAX_DETAIL_LENGTH = 10_000;
export const MAX_MESSAGE_LENGTH = 2_000;
/** Log lines per attempt. */
export const MAX_LINES = 1_000;
/** A year, for a snooze and for the retry delay of a task. */
export const MAX_DELAY_SECONDS = 365 * 86_400;

const LEVELS: readonly LogLevel[] = ['info', 'warn', 'error'];
const DROPPED = { dropped: 'too large or not storable' };

export interface Line {
  level: LogLevel;
  message: string;
  data?: Record<string, unknown> | undefined;
}

/** Limits a log line of a task, which may pass values of any type. */
export function limitLine(level: unknown, message: unknown, data: unknown): Line {
  return {
    level: LEVELS.find((known) => known === level) ?? 'info',
    message: limitText(textOf(message), MAX_LINE_LENGTH),
    ...(data !== undefined && { data: limitData(data) }),
  };
}

/** Undefined for invalid progress. */
export function limitProgress(done: unknown, total: unknown): Progress | undefined {
  if (!Number.isFinite(done)) return undefined;
  return { done: Number(done), total: Number.isFinite(total) ? Number(total) : null };
}

export function limitPage(report: PageReport): PageReport {
  const cut = (text: string) => limitText(text, MAX_MESSAGE_LENGTH);
  if (report.status === 'completed') return { ...report, note: report.note === null ? null : cut(report.note) };
  return { ...report, error: { ...report.error, message: cut(report.error.message) } };
}

export function limitText(text: string, maxLength: number): string {
  return storableText(text.slice(0, maxLength));
}

function limitData(data: unknown): Record<string, unknown> {
  let json: string | undefined;
  try {
    json = JSON.stringify(data);
  } catch {
    // A cycle, or a BigInt.
  }
  if (json === undefined || json.length > MAX_DATA_LENGTH) return DROPPED;
  const value: unknown = JSON.parse(json);
  if (!isStorable(value)) return DROPPED;
  return isRecord(value) ? value : { output: value };
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
