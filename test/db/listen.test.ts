import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import pg from 'pg';
import { listen } from '../../db/listen.ts';
import { createLogger } from '../../runtime/log.ts';
import { cloneDatabase } from '../support/database.ts';
import { until } from '../support/service.ts';

const log = createLogger('silent', {});

test('each channel hears its payloads, and an empty one when the connection is open', async () => {
  const { url, drop } = await cloneDatabase('template1');
  const heard: string[] = [];
  const channels = {
    one: (payload: string) => void heard.push(`one ${payload}`),
    two: (payload: string) => void heard.push(`two ${payload}`),
  };
  const listener = listen(url, { name: 'test', log, channels });
  try {
    await until(async () => heard.length === 2);
    expect(heard).toEqual(['one ', 'two ']);
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    await client.query(`notify two, 'something'; notify three, 'else'`);
    await client.end();
    await until(async () => heard.length === 3);
    expect(heard[2]).toBe('two something');
  } finally {
    await listener.close();
    await drop();
  }
});

test('a listener that is closed while it connects ends at once', async () => {
  const silent = createServer().listen(0, '127.0.0.1');
  await once(silent, 'listening');
  const url = `postgres://127.0.0.1:${(silent.address() as AddressInfo).port}/none`;
  const listener = listen(url, { name: 'test', log, channels: {} });
  const [socket] = await once(silent, 'connection');
  await listener.close();
  socket.destroy();
  silent.close();
});

test('processes that lose Postgres at the same moment come back at different ones, and less and less often', async () => {
  const LISTENERS = 20;
  let connections = 0;
  const refusing = createServer((socket) => {
    connections++;
    socket.destroy();
  }).listen(0, '127.0.0.1');
  await once(refusing, 'listening');
  const url = `postgres://127.0.0.1:${(refusing.address() as AddressInfo).port}/none`;
  const listeners = Array.from({ length: LISTENERS }, () => listen(url, { name: 'test', log, channels: {} }));
  try {
    await until(async () => connections >= LISTENERS);
    const most: number[] = [];
    for (const last = performance.now() + 400; performance.now() < last; ) {
      const before = connections;
      await new Promise((resolve) => setTimeout(resolve, 20));
      most.push(connections - before);
    }
    // At fixed intervals all of them would come within one of these moments.
    expect(Math.max(...most)).toBeLessThan(LISTENERS / 2);
  } finally {
    await Promise.all(listeners.map((listener) => listener.close()));
    refusing.close();
  }
});
