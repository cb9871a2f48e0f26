import { setTimeout as delay } from 'node:timers/promises';
import type { Presence } from '../../db/presence.ts';

/** For how long what Postgres said about the others is believed. */
export const LEASE_MS = 150;

/**
 * Knows whether this process may answer from its copy of the statuses: only while no other API process answers from another one,
 * since then somebody may have read what this copy does not know. The rules, from which follows that no client reads a
 * status older than one it has read, whomever it asks:
 *
 * 1. Every process announces its copy in Postgres, and waits for a lease before it first answers from there, so that all
 *    others have seen it.
 * 2. Nobody answers anything unless it saw its own announcement within the last lease.
 * 3. A copy is trusted once no other has been seen for a lease, without a longer gap between two looks, and is emptied at
 *    that moment; until then Postgres is asked.
 */
export function createStanding(presence: Presence, clear: () => Promise<void>) {
  let place: number | undefined;
  let seenAt = -Infinity;
  let aloneSince = Infinity;
  let trusted = false;
  let checking: Promise<void> | undefined;
  let moves = Promise.resolve();

  function distrust(): void {
    trusted = false;
    aloneSince = Infinity;
  }

  async function go(next: number): Promise<void> {
    distrust();
    await presence.announce(next);
    await delay(LEASE_MS);
    const before = place;
    place = next;
    distrust();
    if (before !== undefined && before !== next) await presence.withdraw(before);
  }

  /** One after the other. */
  function move(work: () => Promise<void>): Promise<void> {
    const moved = moves.then(work);
    moves = moved.catch(() => undefined);
    return moved;
  }

  async function look(): Promise<void> {
    const at = performance.now();
    const here = place as number;
    const { all, own } = await presence.announced();
    if (place !== here) return;
    if (!own.has(here)) {
      // The session was lost, and the announcement with it: others may trust their copies by now.
      return move(async () => {
        if (place === here) await go(here);
      });
    }
    if (all.size > 1 || at - seenAt > LEASE_MS) distrust();
    seenAt = at;
    if (all.size === 1) aloneSince = Math.min(aloneSince, at);
    if (!trusted && at - aloneSince >= LEASE_MS) {
      await clear();
      trusted = at - aloneSince >= LEASE_MS;
    }
  }

  /** Sees who is there; those who ask at the same time share it. */
  function check(): Promise<void> {
    checking ??= look().finally(() => {
      checking = undefined;
    });
    return checking;
  }

  return {
    /** Announces another copy, and withdraws the one before. When it throws, it is to be called again. */
    moveTo: (next: number) => move(() => go(next)),
    check,
    /** Resolves once the own announcement was seen within the lease. Throws when Postgres cannot be reached. */
    async confirm(): Promise<void> {
      while (performance.now() - seenAt > LEASE_MS) await check();
    },
    /** Whether what the copy gave until now may be answered. */
    trusts: (): boolean => trusted && performance.now() - seenAt <= LEASE_MS,
    /** Until the next check, as if others had been seen. */
    distrust,
  };
}
