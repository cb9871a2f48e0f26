import { useDocumentVisibility, useIntervalFn, useThrottleFn } from '@vueuse/core';
import { onScopeDispose, type Ref, shallowRef } from 'vue';
import { type Answer, ask, type Failure, withQuery } from '../api/http.ts';
import { onEvents } from '../api/live.ts';

export type LogLine = Answer<'logLine'>;

/** The newest lines that are kept. */
export const MAX_LINES = 5_000;
const AT_ONCE = 200;
const EVENTS_REST_MS = 300;
const LINES_EVERY_MS = 1_000;

/**
 * The log of a job as it grows: read with its events, and once a second while it runs, since log lines of its task
 * create no events.
 */
export function useLog(
  id: string,
  isRunning: () => boolean,
): { lines: Ref<LogLine[]>; failure: Ref<Failure | undefined> } {
  const lines = shallowRef<LogLine[]>([]);
  const failure = shallowRef<Failure>();
  const visibility = useDocumentVisibility();
  let after = 0;
  let isReading = false;
  let isStale = false;
  let isGone = false;

  /** Reads to the end, one request at a time. */
  async function read(): Promise<void> {
    isStale = true;
    if (isReading) return;
    isReading = true;
    try {
      while (isStale && !isGone) {
        isStale = false;
        const path = withQuery(`/jobs/${encodeURIComponent(id)}/logs`, { after, limit: AT_ONCE });
        const { items, next_cursor } = await ask<Answer<'logList'>>(path);
        after = items.at(-1)?.id ?? after;
        if (items.length > 0) lines.value = [...lines.value, ...items].slice(-MAX_LINES);
        if (next_cursor !== null) isStale = true;
      }
      failure.value = undefined;
    } catch (error) {
      failure.value = error as Failure;
    } finally {
      isReading = false;
    }
  }

  const readSoon = useThrottleFn(read, EVENTS_REST_MS, true);
  void read();
  onEvents((events) => {
    if (events === 'everything' || events.some(({ job_id }) => job_id === id)) void readSoon();
  });
  useIntervalFn(() => {
    if (visibility.value === 'visible' && isRunning()) void read();
  }, LINES_EVERY_MS);
  onScopeDispose(() => {
    isGone = true;
  });
  return { lines, failure };
}
