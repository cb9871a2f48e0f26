import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import express from 'express';
import { createAuthorize, requireAuthorization } from '../../../api/http/authorize.ts';
import { Connections } from '../../../api/http/connections.ts';
import { problems } from '../../../api/http/problem.ts';
import { parseConfig } from '../../../runtime/config.ts';
import { createLogger } from '../../../runtime/log.ts';
import { until } from '../../support/service.ts';

const MAX = 20;
const MAX_UNKNOWN = 15;
const KEY = 'Authorization: Bearer alice';

let server: Server;
/** Requests to `/jobs/held` that wait for `release`. */
let held: number;
let release: () => void;
const sockets = new Set<Socket>();
beforeEach(async () => {
  const sha256 = createHash('sha256').update('alice').digest('hex');
  const config = parseConfig({ API_KEYS: JSON.stringify([{ name: 'alice', sha256, scopes: ['admin'] }]) });
  const connections = new Connections({ maxConnections: MAX, maxUnknownPerAddress: MAX_UNKNOWN });
  const released = Promise.withResolvers<void>();
  release = released.resolve;
  held = 0;
  const app = express();
  app.use(requireAuthorization(createAuthorize(config, ({ socket }) => connections.trust(socket))));
  app.get('/jobs', (_request, response) => void response.json({}));
  app.get('/jobs/held', async (_request, response) => {
    held++;
    await released.promise;
    response.json({});
  });
  app.use(problems(createLogger('silent', {})));
  server = createServer(app);
  connections.watch(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
});
afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  sockets.clear();
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

/** A connection, from any address of this machine. */
async function open(localAddress = '127.0.0.1'): Promise<Socket> {
  const socket = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', localAddress });
  sockets.add(socket);
  socket.on('error', () => undefined);
  await once(socket, 'connect');
  return socket;
}

/** Opens connections that read, so that they notice when they are closed. */
async function openMany(count: number, localAddress?: string): Promise<Socket[]> {
  const opened: Socket[] = [];
  for (let index = 0; index < count; index++) opened.push((await open(localAddress)).resume());
  return opened;
}

async function ask(socket: Socket, path = '/jobs', header = KEY): Promise<number> {
  socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n${header}\r\n\r\n`);
  const [answer] = await Promise.race([once(socket, 'data'), once(socket, 'close').then(() => ['HTTP/1.1 0 '])]);
  return Number(String(answer).split(' ')[1]);
}

const openOf = (opened: Socket[]) => opened.filter((socket) => !socket.closed).length;

test.each([
  ['one address', ['127.0.0.1']],
  ['many addresses', ['127.0.0.2', '127.0.0.3', '127.0.0.4', '127.0.0.5']],
])('silent connections from %s do not block clients with a key', async (_from, addresses) => {
  const silent = (await Promise.all(addresses.map((address) => openMany(MAX * 3, address)))).flat();
  const began = performance.now();
  const clients = await Promise.all(Array.from({ length: MAX / 2 }, () => open()));
  expect(await Promise.all(clients.map((client) => ask(client)))).toEqual(clients.map(() => 200));
  expect(performance.now() - began).toBeLessThan(1_000);
  await until(async () => openOf(silent) <= MAX / 2);
  // Further silent connections close no connection of a client with a key, busy or idle.
  const busy = clients.slice(0, 3).map((client) => ask(client, '/jobs/held'));
  await until(async () => held === 3);
  await openMany(MAX * 3);
  release();
  expect(await Promise.all(busy)).toEqual([200, 200, 200]);
  expect(await Promise.all(clients.map((client) => ask(client)))).toEqual(clients.map(() => 200));
});

test('connections without a valid key are closed first, least recently used first', async () => {
  const client = await open();
  expect(await ask(client)).toBe(200);
  const guesser = await open();
  const [first] = await openMany(1);
  expect(await ask(guesser, '/jobs', 'Authorization: Bearer wrong')).toBe(401);
  await openMany(MAX_UNKNOWN - 1);
  await until(async () => first?.closed);
  expect([guesser.closed, client.closed]).toEqual([false, false]);
});

test('the longest idle connection with a valid key is closed, and never a busy one', async () => {
  const clients = await openMany(MAX_UNKNOWN);
  await Promise.all(clients.map((client) => ask(client)));
  clients.push(...(await openMany(MAX - MAX_UNKNOWN)));
  const busy = clients.slice(2).map((client) => ask(client, '/jobs/held'));
  await until(async () => held === MAX - 2);
  const [older, newer] = clients as [Socket, Socket];
  expect([await ask(older), await ask(newer)]).toEqual([200, 200]);
  expect(await ask(await open())).toBe(200);
  await until(async () => older.resume().closed);
  expect(newer.closed).toBe(false);
  release();
  expect(await Promise.all(busy)).toEqual(busy.map(() => 200));
});

test('a connection beyond the maximum is refused while all others are busy', async () => {
  const clients = await Promise.all(Array.from({ length: MAX_UNKNOWN }, () => open()));
  const busy = clients.map((client) => ask(client, '/jobs/held'));
  await until(async () => held === MAX_UNKNOWN);
  const others = await Promise.all(Array.from({ length: MAX - MAX_UNKNOWN }, () => open()));
  busy.push(...others.map((client) => ask(client, '/jobs/held')));
  await until(async () => held === MAX);
  const [refused] = await openMany(1);
  await until(async () => refused?.closed);
  release();
  expect(await Promise.all(busy)).toEqual(busy.map(() => 200));
});
