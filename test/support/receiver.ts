import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { type Json, until } from './service.ts';

export interface Received {
  headers: IncomingHttpHeaders;
  /** The body as received, which the signature covers. */
  text: string;
  body: Json;
  at: number;
}

/**
 * A receiver of webhooks on loopback. Each path answers in its own way: `answer` is given the path and how often it was
 * asked before, and may answer late or never; without it, all is well.
 */
export async function startReceiver(
  answer: (path: string, before: number, response: ServerResponse) => void = (_path, _before, response) => {
    response.writeHead(204).end();
  },
) {
  const received = new Map<string, Received[]>();
  const at = (path: string) => received.get(path) ?? [];
  const server = createServer(async (request, response) => {
    const path = request.url as string;
    const body = await text(request);
    const before = at(path).length;
    received.set(path, [
      ...at(path),
      { headers: request.headers, text: body, body: JSON.parse(body), at: performance.now() },
    ]);
    answer(path, before, response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    port,
    url: (path: string) => `http://127.0.0.1:${port}${path}`,
    /** The requests to a path, oldest first. */
    at,
    /** The same, once that many have come. */
    async have(path: string, count: number, ms?: number): Promise<Received[]> {
      return until(async () => at(path).length >= count && at(path), ms);
    },
    async stop(): Promise<void> {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
