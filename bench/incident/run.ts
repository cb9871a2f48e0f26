import { setTimeout as delay } from 'node:timers/promises';
import { type MemoryFigures, measureMemory } from './memory.ts';
import type { Upload } from './traffic.ts';

/** How an upload ended: `failed` with a reason that says what is wrong with the file, `lost` without one. */
export interface End {
  outcome: 'converted' | 'failed' | 'lost';
  reason: string;
  /** Why work on it was discarded, once for each time. */
  disturbances: string[];
  /** As of Date.now(). */
  finished: number;
}

/** A system that converts uploads. */
export interface System {
  convert(upload: Upload): Promise<End>;
  /** The processes whose memory is measured, with all their descendants. */
  roots(): number[];
  stop(): Promise<void>;
}

export type Ended = Omit<End, 'finished'> & { upload: Upload; seconds: number };

export interface Run extends MemoryFigures {
  ended: Ended[];
  seconds: number;
}

/** `clients` that each send the next upload when the one before has ended, or uploads at a fixed rate. */
export type Arrival = { clients: number } | { perMinute: number };

const SAY_EVERY_MS = 15_000;

/** Sends all uploads and waits until they have ended. An upload that has not ended at the time limit is lost. */
export async function runTraffic(
  system: System,
  traffic: Upload[],
  arrival: Arrival,
  { limitSeconds, signal, say }: { limitSeconds: number; signal: AbortSignal; say: (line: string) => void },
): Promise<Run> {
  const ended: Ended[] = [];
  const began = Date.now();
  const secondsSince = (time: number) => (Date.now() - time) / 1000;
  const end = new AbortController();
  const stopped = AbortSignal.any([signal, end.signal]);
  const timeLimit = delay(limitSeconds * 1000, undefined, { signal: stopped });

  async function send(upload: Upload): Promise<void> {
    const sent = Date.now();
    const late = timeLimit.then((): End => {
      return { outcome: 'lost', reason: 'not done in time', disturbances: [], finished: Date.now() };
    });
    const isLate = secondsSince(began) >= limitSeconds;
    const { finished, ...how } = await Promise.race(isLate ? [late] : [system.convert(upload), late]);
    ended.push({ ...how, upload, seconds: (finished - sent) / 1000 });
  }

  async function sendAll(): Promise<void> {
    if ('perMinute' in arrival) {
      const spaceMs = 60_000 / arrival.perMinute;
      await Promise.all(
        traffic.map(async (upload) => {
          await delay(Math.max(0, began + upload.at * spaceMs - Date.now()), undefined, { signal: stopped });
          await send(upload);
        }),
      );
      return;
    }
    const waiting = traffic.values();
    const client = async () => {
      for (const upload of waiting) await send(upload);
    };
    await Promise.all(Array.from({ length: arrival.clients }, client));
  }

  const memory = measureMemory(() => system.roots());
  const progress = setInterval(() => {
    say(`${ended.length} of ${traffic.length} uploads after ${Math.round(secondsSince(began))} s`);
  }, SAY_EVERY_MS);
  try {
    // After an abort the timer rejects, and the results of the other work are not needed.
    await Promise.race([sendAll(), timeLimit.then(() => new Promise(() => undefined))]);
    return { ended, seconds: secondsSince(began), ...memory.stop() };
  } finally {
    memory.stop();
    clearInterval(progress);
    end.abort();
  }
}
