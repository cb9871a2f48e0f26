import type { PageReport } from '../conversion/record-pages.ts';
import type { LogLevel, Progress } from '../db/schema.ts';
import { isStorable, storableText } from '../db/storable.ts';

/** The bounds of what a task reports. `run-task.ts` cuts reports to them, `sandbox/protocol.ts` refuses larger ones. */

/** Characters of JSON. */
export const MAX_RESULT_LENGTH = 256 * 1024;
export const MAX_DATA_LENGTH = 32 * 1024;
/** Characters. */
export const MAX_LINE_LENGTH = 10_000;
export const MAX_DETAIL_LENGTH = 10_000;
export const MAX_MESSAGE_LENGTH = 2_000;
/** Log lines of an attempt. */
export const MAX_LINES = 1_000;
/** A year: for a snooze, and for the delay of a retry that a task asks for. */
export const MAX_DELAY_SECONDS = 365 * 86_400;

const LEVELS: readonly LogLevel[] = ['info', 'warn', 'error'];
const DROPPED = { dropped: 'too large, or not to be stored' };

export interface Line {
  level: LogLevel;
  message: string;
  data?: Record<string, unknown> | undefined;
}

/** A log line of a task, which may pass anything. */
export function boundedLine(level: unknown, message: unknown, data: unknown): Line {
  return {
    level: LEVELS.find((known) => known === level) ?? 'info',
    message: boundedText(textOf(message), MAX_LINE_LENGTH),
    ...(data !== undefined && { data: boundedData(data) }),
  };
}

/** Undefined for what is no progress. */
export function boundedProgress(done: unknown, total: unknown): Progress | undefined {
  if (!Number.isFinite(done)) return undefined;
  return { done: Number(done), total: Number.isFinite(total) ? Number(total) : null };
}

export function boundedPage(report: PageReport): PageReport {
  const cut = (text: string) => boundedText(text, MAX_MESSAGE_LENGTH);
  if (report.status === 'completed') return { ...report, note: report.note === null ? null : cut(report.note) };
  return { ...report, error: { ...report.error, message: cut(report.error.message) } };
}

export function boundedText(text: string, maxLength: number): string {
  return storableText(text.slice(0, maxLength));
}

/** Anything can be thrown or logged, also what has no text. */
export function textOf(value: unknown): string {
  try {
    return String(value);
  } catch {
    return '';
  }
}

function boundedData(data: unknown): Record<string, unknown> {
  let json: string | undefined;
  try {
    json = JSON.stringify(data);
  } catch {
    // It turns in a circle, or has a big integer.
  }
  if (json === undefined || json.length > MAX_DATA_LENGTH) return DROPPED;
  const value: unknown = JSON.parse(json);
  if (!isStorable(value)) return DROPPED;
  return isRecord(value) ? value : { output: value };
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
