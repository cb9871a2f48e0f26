import { WakeListener } from '../../converter/wake-listener.ts';
import { MAX_LISTENERS } from '../../jobs/wake.ts';

const ids = (count: number) =>
  Array.from({ length: count }, (_, index) => `converter-${String(index).padStart(3, '0')}`);

function start(id: string) {
  const open = new Set<object>();
  let known: string[] = [];
  const listener = new WakeListener({
    id,
    listen() {
      const connection = {
        async close() {
          open.delete(connection);
        },
      };
      open.add(connection);
      return connection;
    },
    onListeners: (listeners) => {
      known = listeners;
    },
  });
  return { listener, connections: () => open.size, known: () => known };
}

test('only the first converters of a large fleet listen, and all know them', () => {
  const fleet = ids(100);
  const all = fleet.map(start);
  for (const { listener } of all) listener.setPeers(fleet);
  expect(all.map(({ connections }) => connections())).toEqual(fleet.map((_, place) => (place < MAX_LISTENERS ? 1 : 0)));
  for (const { known } of all) expect(known()).toEqual(fleet.slice(0, MAX_LISTENERS));
});

test('a converter listens with one connection after those before it are gone', () => {
  const fleet = ids(MAX_LISTENERS + 1);
  const { listener, connections } = start(fleet.at(-1) ?? '');
  expect(connections()).toBe(1);
  listener.setPeers(fleet);
  expect(connections()).toBe(0);
  for (let round = 0; round < 2; round++) listener.setPeers(fleet.slice(1));
  expect(connections()).toBe(1);
});

test('a new converter listens before it is listed', () => {
  const { listener, connections } = start('new');
  listener.setPeers(ids(MAX_LISTENERS + 5));
  expect(connections()).toBe(1);
});

test('a closed listener has no connection', async () => {
  const { listener, connections } = start('a');
  await listener.close();
  expect(connections()).toBe(0);
});
