import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import pg from 'pg';
import { listen } from '../../db/listen.ts';
import { createLogger } from '../../runtime/log.ts';
import { cloneDatabase } from '../support/database.ts';
import { until } from '../support/service.ts';

const log = createLogger('silent', {});

test('each channel gets its payloads, and an empty one after each connect', async () => {
  const { url, drop } = await cloneDatabase('template1');
  const payloads: string[] = [];
  const channels = {
    one: (payload: string) => void payloads.push(`one ${payload}`),
    two: (payload: string) => void payloads.push(`two ${payload}`),
  };
  const listener = listen(url, { name: 'test', log, channels });
  try {
    await until(async () => payloads.length === 2);
    expect(payloads).toEqual(['one ', 'two ']);
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    await client.query(`notify two, 'something'; notify three, 'else'`);
    await client.end();
    await until(async () => payloads.length === 3);
    expect(payloads[2]).toBe('two something');
  } finally {
    await listener.close();
    await drop();
  }
});

test('closing a listener that is connecting ends it at once', async () => {
  const silent = createServer().listen(0, '127.0.0.1');
  await once(silent, 'listening');
  const url = `postgres://127.0.0.1:${(silent.address() as AddressInfo).port}/none`;
  const listener = listen(url, { name: 'test', log, channels: {} });
  const [socket] = await once(silent, 'connection');
  await listener.close();
  socket.destroy();
  silent.close();
});

test('listeners that lose Postgres together reconnect at different times, and with growing delays', async () => {
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
