import { connect, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

/** Requests as bytes, for clients that keep to no rule. */

/** A connection on which these bytes were sent. It reads nothing while `isDeaf`. */
export interface Wire {
  socket: Socket;
  /** The status of the first answer; 0 when the connection ended without one. */
  status: Promise<number>;
}

export function openWire(url: string, bytes: string | Buffer, { isDeaf = false } = {}): Wire {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  const status = new Promise<number>((resolve) => {
    socket.once('data', (head) => {
      resolve(Number(head.toString('latin1').split(' ')[1] ?? 0));
      if (isDeaf) socket.pause();
      else socket.resume();
    });
    socket.once('close', () => resolve(0));
  });
  // A refusal may cut the connection while bytes are on the way.
  socket.on('error', () => undefined);
  if (bytes.length > 0) socket.write(bytes);
  return { socket, status };
}

/** The head of a request, without the lines of the body. */
export function head(request: string, headers: Record<string, string> = {}): string {
  const lines = Object.entries({ Host: '127.0.0.1', ...headers }).map(([name, value]) => `${name}: ${value}\r\n`);
  return `${request} HTTP/1.1\r\n${lines.join('')}\r\n`;
}

export function handshake(route: string, headers: Record<string, string> = {}): string {
  return head(`GET ${route}`, {
    Connection: 'Upgrade',
    Upgrade: 'websocket',
    'Sec-WebSocket-Version': '13',
    'Sec-WebSocket-Key': 'AAAAAAAAAAAAAAAAAAAAAA==',
    ...headers,
  });
}

/** Sends the same bytes on many connections at once, waits up to `ms` for answers, and counts these by status. */
export async function flood(
  url: string,
  count: number,
  bytes: string | Buffer,
  { ms = 8_000, isDeaf = false }: { ms?: number; isDeaf?: boolean } = {},
): Promise<Record<string, number>> {
  const wires = Array.from({ length: count }, () => openWire(url, bytes, { isDeaf }));
  const answers: Record<string, number> = {};
  let isOver = false;
  const tally = (status: number | string) => {
    if (!isOver) answers[status] = (answers[status] ?? 0) + 1;
  };
  for (const { status } of wires) void status.then(tally);
  const waited = new AbortController();
  await Promise.race([
    Promise.all(wires.map(({ status }) => status)),
    delay(ms, undefined, { signal: waited.signal }).catch(() => undefined),
  ]);
  waited.abort();
  const unanswered = count - Object.values(answers).reduce((sum, each) => sum + each, 0);
  isOver = true;
  for (const { socket } of wires) socket.destroy();
  return unanswered > 0 ? { ...answers, unanswered } : answers;
}
