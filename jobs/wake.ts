import type { Shape } from './shape.ts';

/**
 * Wake-ups: NOTIFYs that say that jobs became ready. A random token makes converters look in turn instead of all at once.
 * A poll each second of every converter finds the jobs of wake-ups that were lost, or that reached nobody since lists of converters disagreed.
 */
export interface WakeUp {
  token: number;
  /** The jobs that became ready. */
  count: number;
  /** Each of the jobs needs at least this. */
  shape: Shape;
  /** Of one that a converter passed on: how many more converters may pass it on. It is for a single converter. */
  hops?: number;
}

/** Most converters that pass a wake-up on, one after the other. */
export const MAX_HOPS = 8;
/** Fewer converters all look. */
export const MIN_DIRECTED = 4;
/** Most converters that listen to wake-ups; others poll. */
export const MAX_LISTENERS = 8;

const PAYLOAD = /^(\d{1,15}) (\d{1,15}) (\d{1,9}) (\d{1,9})(?: (\d{1,9}))?$/;

/** Undefined for a payload without a known meaning: then any converter may be meant. */
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
 * passed. One that is not in its own list, which is old, is meant always.
 * @param converters the ids of the converters that listen, sorted
 */
export function isFor(wakeUp: WakeUp, converters: readonly string[], id: string): boolean {
  const distance = distanceTo(wakeUp, converters, id);
  if (distance === undefined) return true;
  return distance < (wakeUp.hops === undefined ? reachOf(wakeUp, converters) : 1);
}

/**
 * The wake-up that this converter passes on in place of one that was for it. All that began as one wake-up reach each
 * converter once at most. Undefined when there is nobody left to pass it to.
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

/** How many positions after that of the token the converter stands. */
function distanceTo({ token }: WakeUp, converters: readonly string[], id: string): number | undefined {
  const position = converters.indexOf(id);
  if (position === -1) return undefined;
  return (position - (token % converters.length) + converters.length) % converters.length;
}
