import { isOutage } from './postgres-errors.ts';

/**
 * Gives a function that writes one item and gives its result. Items that arrive during a write share the next one, up to
 * `max` of them, so that many clients cost few transactions and one client waits for nobody. `write` gives the results in
 * the order of its items, or writes none of them. A group that fails is written item by item, so that an item that cannot
 * be written fails no other; during an outage all of it fails at once.
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
      for (const [index, { resolve }] of group.entries()) resolve(results[index] as Result);
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
