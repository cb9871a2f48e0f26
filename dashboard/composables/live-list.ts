import { promiseTimeout } from '@vueuse/core';
import { onScopeDispose, shallowReactive, watch } from 'vue';
import { Failure } from '../api/http.ts';
import { type Event, onEvents } from '../api/live.ts';

/** The minimal pause between two updates; a slow update makes it several times longer. */
const REST_MS = 1_000;
const REST_FACTOR = 4;
/** More are loaded when fewer rows than this lie below those in sight. */
const ROWS_AHEAD = 100;
/** Changed rows that one update loads one by one. */
const MAX_AT_ONCE = 10;

interface Page<T> {
  items: T[];
  next_cursor: string | null;
}

/** The source of a list's rows. */
interface Source<T> {
  /** The filters: a change starts the list again. */
  filter: () => unknown;
  /** The rows after a cursor, or the first ones. */
  page: (cursor?: string) => Promise<Page<T>>;
  /** The current row; undefined when it is no longer part of the list. */
  one: (row: T) => Promise<T | undefined>;
  keyOf: (row: T) => string;
  /** True if a row is below another, or if their order is unknown. */
  isBelow: (row: T, other: T) => boolean;
  /** The key of the row that an event may have changed. */
  changedBy: (event: Event) => string | null | undefined;
}

/** A list that is loaded as far as it was scrolled, and kept up to date. */
export interface LiveList<T> {
  readonly rows: T[];
  /** True if there are no more rows; false before the first are loaded. */
  readonly isComplete: boolean;
  readonly isLoading: boolean;
  /** The failure of the last request. */
  readonly failure: Failure | undefined;
  /** True if too many new rows exist to show without losing the place; `restart` shows them. */
  readonly hasNewer: boolean;
  /** Sets the visible rows, from one index to another. */
  see: (first: number, last: number) => void;
  /** Reports a changed row. */
  touch: (key: string) => void;
  /** Repeats the failed request. */
  retry: () => void;
  /** Shows the newest rows. */
  restart: () => void;
}

/**
 * At most one update a second, of few requests: the first rows are loaded again, and further down only changed rows
 * that are visible. Other changed rows wait until they are visible.
 */
export function useLiveList<T>(source: Source<T>): LiveList<T> {
  const list = shallowReactive({
    rows: [] as T[],
    isComplete: false,
    isLoading: false,
    failure: undefined as Failure | undefined,
    hasNewer: false,
    see,
    touch,
    retry: () => void follow(),
    restart,
  });
  const { keyOf } = source;
  /** Increases when the list starts again, which makes earlier requests obsolete. */
  let version = 0;
  /** The cursor of the next rows: null at the end, undefined before the first are loaded. */
  let cursor: string | null | undefined;
  let inSight = { first: 0, last: 0 };
  /** Keys of rows that may have changed since they were loaded. */
  let stale = new Set<string>();
  let isFollowing = false;
  let isDue = false;

  const sight = () => list.rows.slice(inSight.first, inSight.last + 1);
  const isStale = (row: T) => stale.has(keyOf(row));

  function begin(rows: T[], next: string | null | undefined): void {
    version++;
    cursor = next;
    Object.assign(list, { rows, isComplete: next === null, isLoading: false, hasNewer: false });
  }

  function restart(): void {
    begin([], undefined);
    stale.clear();
    inSight = { first: 0, last: 0 };
    list.failure = undefined;
    void load();
  }

  /** The answer, unless it fails or the list has started again. */
  async function answerTo<R>(asked: Promise<R>): Promise<R | undefined> {
    const mine = version;
    try {
      const answer = await asked;
      if (mine !== version) return undefined;
      list.failure = undefined;
      return answer;
    } catch (error) {
      if (mine === version) list.failure = error instanceof Failure ? error : new Failure('internal', String(error));
      return undefined;
    }
  }

  async function load(): Promise<void> {
    if (list.isLoading || cursor === null) return;
    const mine = version;
    list.isLoading = true;
    const page = await answerTo(source.page(cursor));
    if (mine !== version) return;
    list.isLoading = false;
    if (page === undefined) return;
    list.rows = [...list.rows, ...page.items];
    cursor = page.next_cursor;
    list.isComplete = cursor === null;
    loadAhead();
  }

  function loadAhead(): void {
    const isNear = inSight.last + ROWS_AHEAD >= list.rows.length;
    if (isNear && cursor !== undefined && list.failure === undefined) void load();
  }

  async function look(): Promise<void> {
    if (cursor === undefined) {
      // A running request may have read the row before the change.
      isDue = list.isLoading;
      return load();
    }
    const told = stale;
    stale = new Set();
    const page = await answerTo(source.page());
    if (page === undefined) return remember(told);
    for (const row of page.items) told.delete(keyOf(row));
    putOnTop(page);
    const changed = sight()
      .filter((row) => told.has(keyOf(row)))
      .slice(0, MAX_AT_ONCE);
    const now = await answerTo(Promise.all(changed.map(askFor)));
    if (now === undefined) return remember(told);
    const fresh = new Map(changed.map((row, index) => [keyOf(row), now[index]]));
    for (const key of fresh.keys()) told.delete(key);
    if (fresh.size > 0) {
      const renewed = list.rows.map((row) => (fresh.has(keyOf(row)) ? fresh.get(keyOf(row)) : row));
      list.rows = renewed.filter((row) => row !== undefined);
    }
    remember(told);
    isDue ||= sight().some(isStale);
    loadAhead();
  }

  /** Keeps the keys of changed rows that are in the list, or may be in a running request. */
  function remember(told: Set<string>): void {
    const kept = list.isLoading || told.size === 0 ? told : list.rows.map(keyOf).filter((key) => told.has(key));
    for (const key of kept) stale.add(key);
  }

  function askFor(row: T): Promise<T | undefined> {
    return source.one(row).catch((error) => {
      if (error instanceof Failure && error.code === 'not_found') return undefined;
      throw error;
    });
  }

  /** Replaces the first rows by their current state. */
  function putOnTop({ items, next_cursor }: Page<T>): void {
    const keys = new Set(items.map(keyOf));
    const end = items.at(-1);
    const isBelow = (row: T) => end !== undefined && source.isBelow(row, end) && !keys.has(keyOf(row));
    const below = next_cursor === null ? [] : list.rows.filter(isBelow);
    // The rows between these and the loaded ones are unknown.
    const isGap = below.length > 0 && below.length === list.rows.length;
    if (isGap && inSight.first > 0) list.hasNewer = true;
    else if (isGap || below.length === 0) begin(items, next_cursor);
    else list.rows = [...items, ...below];
  }

  async function follow(): Promise<void> {
    isDue = true;
    if (isFollowing) return;
    isFollowing = true;
    while (isDue) {
      isDue = false;
      const began = performance.now();
      await look();
      await promiseTimeout(Math.max(REST_MS, REST_FACTOR * (performance.now() - began)));
    }
    isFollowing = false;
  }

  function see(first: number, last: number): void {
    inSight = { first, last };
    loadAhead();
    if (sight().some(isStale) || (list.hasNewer && first === 0)) void follow();
  }

  function touch(key: string): void {
    stale.add(key);
    void follow();
  }

  watch(source.filter, restart, { immediate: true, deep: true });
  onEvents((events) => {
    const keys = events === 'everything' ? list.rows.map(keyOf) : events.map(source.changedBy);
    for (const key of keys) if (key) stale.add(key);
    if (events === 'everything' || keys.some(Boolean)) void follow();
  });
  onScopeDispose(() => {
    version++;
    isDue = false;
  });
  return list;
}
