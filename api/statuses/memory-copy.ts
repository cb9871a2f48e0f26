import { randomInt, randomUUID } from 'node:crypto';
import { type Copy, type Hole, KEPT_MS, type Known } from './copy.ts';

/** About 1 KB each. */
const MOST = 20_000;

/** A copy in the memory of this process; the oldest make room for new ones. */
export function createMemoryCopy(): Copy {
  const kept = new Map<string, { entry: Known | Hole; until: number }>();

  function keep(key: string, entry: Known | Hole): void {
    kept.delete(key);
    kept.set(key, { entry, until: performance.now() + KEPT_MS });
    if (kept.size > MOST) kept.delete(kept.keys().next().value as string);
  }

  return {
    id: randomInt(1, 2 ** 31),
    async look(key) {
      const found = kept.get(key);
      if (found !== undefined && found.until > performance.now()) return found.entry;
      const hole = { hole: randomUUID() };
      keep(key, hole);
      return hole;
    },
    async put(key, known, hole) {
      const entry = kept.get(key)?.entry;
      if (entry === undefined) return;
      if (known === undefined) kept.delete(key);
      else if ('hole' in entry ? entry.hole === hole : entry.version < known.version) keep(key, known);
      else if ('hole' in entry) kept.delete(key);
    },
    async drop(keys) {
      for (const key of keys) kept.delete(key);
    },
    async clear() {
      kept.clear();
    },
  };
}
