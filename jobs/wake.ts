import { sql } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import type { Shape } from './shape.ts';

/** NOTIFY channels of the triggers. Notifications may be lost, so every converter also polls. */
export const READY_CHANNEL = 'sheetmill_ready';
export const CANCELLED_CHANNEL = 'sheetmill_cancelled';

/** A NOTIFY that jobs became ready. A random token selects the converters that look, so that not all look at once. */
export interface WakeUp {
  token: number;
  /** The jobs that became ready. */
  count: number;
  /** The minimum that each of the jobs needs. */
  shape: Shape;
  /** Set when a converter passed it on, to a single other one: the number of further converters that may pass it on. */
  hops?: number;
}

/** The maximum number of converters that pass a wake-up on, one after the other. */
export const MAX_HOPS = 8;
/** With fewer converters, all of them look. */
export const MIN_DIRECTED = 4;
/** The maximum number of converters that listen to wake-ups; others poll. */
export const MAX_LISTENERS = 8;

const PAYLOAD = /^(\d{1,15}) (\d{1,15}) (\d{1,9}) (\d{1,9})(?: (\d{1,9}))?$/;

/** Passes wake-ups on to other converters. */
export async function sendWakeUps(db: Database, wakeUps: WakeUp[]): Promise<void> {
  const payloads = wakeUps.map(formatWakeUp);
  await db.execute(
    sql`select pg_notify(${READY_CHANNEL}, payload) from unnest(${sql.param(payloads)}::text[]) payload`,
  );
}

/** Returns undefined for an unknown payload, which may concern any converter. */
export function parseWakeUp(payload: string): WakeUp | undefined {
  const [, ...fields] = PAYLOAD.exec(payload) ?? [];
  const [token, count, cpuUnits, memoryMb, hops] = fields.map((field) => (field === undefined ? field : Number(field)));
  if (token === undefined || !count || cpuUnits === undefined || memoryMb === undefined) return undefined;
  return { token, count, shape: { cpuUnits, memoryMb }, ...(hops === undefined ? {} : { hops }) };
}

export function formatWakeUp({ token, count, shape, hops }: WakeUp): string {
  return [token, count, shape.cpuUnits, shape.memoryMb, ...(hops === undefined ? [] : [hops])].join(' ');
}

/**
 * True if a wake-up is for this converter: its position is one of `count` from the token on, or the one to which it was
 * passed. A converter that is missing in its list, which is old, takes every wake-up.
 * @param converters the ids of the converters that listen, sorted
 */
export function isFor(wakeUp: WakeUp, converters: readonly string[], id: string): boolean {
  const distance = distanceTo(wakeUp, converters, id);
  if (distance === undefined) return true;
  return distance < (wakeUp.hops === undefined ? reachOf(wakeUp, converters) : 1);
}

/**
 * The wake-up that this converter passes on after one that was for it. Each converter gets at most one of all that began
 * as the same wake-up. Undefined when no converter is left.
 */
export function passOn(wakeUp: WakeUp, converters: readonly string[], id: string): WakeUp | undefined {
  const distance = distanceTo(wakeUp, converters, id);
  if (distance === undefined) return undefined;
  const step = reachOf(wakeUp, converters);
  // The first converters of a wake-up skip each other: each passes it to the one `step` positions on.
  const hops = wakeUp.hops ?? Math.min(MAX_HOPS, Math.floor((converters.length - 1 - distance) / step));
  return hops === 0 ? undefined : { ...wakeUp, token: wakeUp.token + distance + step, hops: hops - 1 };
}

function reachOf({ count }: WakeUp, { length }: readonly string[]): number {
  return length < MIN_DIRECTED ? length : Math.min(count, length);
}

/** The position of the converter, counted from that of the token. */
function distanceTo({ token }: WakeUp, converters: readonly string[], id: string): number | undefined {
  const position = converters.indexOf(id);
  if (position === -1) return undefined;
  return (position - (token % converters.length) + converters.length) % converters.length;
}
