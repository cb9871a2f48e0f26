import { isOutage } from './postgres-errors.ts';

/**
 * Returns a function that writes one item and returns its result. Items that arrive during a write share the next one, up
 * to `max` of them, so that many clients cost few transactions and a single client never waits. `write` returns the results
 * in the order of its items, or writes none. A failed group is written item by item, so that a bad item fails alone; during
 * an outage the whole group fails.
 */
export function inGroups<Item, Result>(
  max: number,
  write: (items: Item[]) => Promise<Result[]>,
): (item: Item) => Promise<Result> {
  type Waiting = PromiseWithResolvers<Result> & { item: Item };
  const waiting: Waiting[] = [];
  let isWriting = false;

  async function writeTogether(group: Waiting[]): Promise<void> {
    try {
      const results = await write(group.map(({ item }) => item));
      for (const [index, result] of results.entries()) group[index]?.resolve(result);
    } catch (error) {
      if (group.length > 1 && !isOutage(error)) for (const one of group) await writeTogether([one]);
      else for (const { reject } of group) reject(error);
    }
  }

  async function writeAll(): Promise<void> {
    while (waiting.length > 0) await writeTogether(waiting.splice(0, max));
    isWriting = false;
  }

  return (item) => {
    const entry = { ...Promise.withResolvers<Result>(), item };
    waiting.push(entry);
    if (!isWriting) {
      isWriting = true;
      // Items of the same turn of the event loop share the first write.
      setImmediate(writeAll);
    }
    return entry.promise;
  };
}
