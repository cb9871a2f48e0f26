import { runForAll } from './holder.ts';

/**
 * Answers all calls that arrive while a query runs with the next one, so that many readers cost few queries. A query
 * asks for at most `max` ids, which bounds the memory that its answer takes. It begins after the calls that it answers,
 * so that no caller receives an older state.
 */
export function askTogether<Found>(
  max: number,
  find: (ids: string[]) => Promise<Map<string, Found>>,
): (id: string) => Promise<Found | undefined> {
  const asked = new Map<string, PromiseWithResolvers<Found | undefined>>();
  let running = false;

  async function run(): Promise<void> {
    running = true;
    while (asked.size > 0) {
      const batch = [...asked].slice(0, max);
      for (const [id] of batch) asked.delete(id);
      try {
        const found = await find(batch.map(([id]) => id));
        for (const [id, { resolve }] of batch) resolve(found.get(id));
      } catch (error) {
        for (const [, { reject }] of batch) reject(error);
      }
    }
    running = false;
  }

  return function ask(id) {
    let answer = asked.get(id);
    if (answer === undefined) {
      answer = Promise.withResolvers<Found | undefined>();
      asked.set(id, answer);
      // Calls of the same turn of the event loop share the first query.
      if (!running) {
        running = true;
        runForAll(() => setImmediate(run));
      }
    }
    return answer.promise;
  };
}
