import { runForAll } from './requester.ts';

/**
 * Loads the documents of concurrent calls with one query at a time, so that many readers cost few queries. A query has at
 * most `max` ids, which limits the memory of its result. It starts after the calls that it answers, so that no caller
 * receives an older state.
 */
export function createBatchLoader<Document>(
  max: number,
  find: (ids: string[]) => Promise<Map<string, Document>>,
): (id: string) => Promise<Document | undefined> {
  const waiting = new Map<string, PromiseWithResolvers<Document | undefined>>();
  let isRunning = false;

  async function run(): Promise<void> {
    while (waiting.size > 0) {
      const batch = [...waiting].slice(0, max);
      for (const [id] of batch) waiting.delete(id);
      try {
        const found = await find(batch.map(([id]) => id));
        for (const [id, { resolve }] of batch) resolve(found.get(id));
      } catch (error) {
        for (const [, { reject }] of batch) reject(error);
      }
    }
    isRunning = false;
  }

  return function load(id) {
    const known = waiting.get(id);
    if (known !== undefined) return known.promise;
    const result = Promise.withResolvers<Document | undefined>();
    waiting.set(id, result);
    if (!isRunning) {
      isRunning = true;
      // Calls of the same turn of the event loop share the first query.
      runForAll(() => setImmediate(run));
    }
    return result.promise;
  };
}
