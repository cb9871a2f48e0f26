/** Ids in one query. */
const MOST = 500;

/**
 * Answers all who ask while a query runs by the next one: many readers cost few queries. Each query begins after those
 * that it answers were asked, so that nobody hears of an older state.
 */
export function askTogether<Found>(find: (ids: string[]) => Promise<Map<string, Found>>) {
  const asked = new Map<string, PromiseWithResolvers<Found | undefined>>();
  let running = false;

  async function run(): Promise<void> {
    running = true;
    while (asked.size > 0) {
      const batch = [...asked].slice(0, MOST);
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

  return function ask(id: string): Promise<Found | undefined> {
    let answer = asked.get(id);
    if (answer === undefined) {
      answer = Promise.withResolvers<Found | undefined>();
      asked.set(id, answer);
      // All who ask within this turn of the loop go along.
      if (!running) {
        running = true;
        setImmediate(run);
      }
    }
    return answer.promise;
  };
}
