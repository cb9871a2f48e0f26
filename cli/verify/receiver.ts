import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import { type AddressInfo, isIPv6 } from 'node:net';
import { text } from 'node:stream/consumers';

const LOOPBACK = '127.0.0.1';
const MAX_BODY_BYTES = 2 ** 20;

export interface Delivery {
  headers: IncomingHttpHeaders;
  body: string;
}

/**
 * A web server that takes webhooks. `host` is the name under which the deployment reaches this machine; for the loopback
 * address nobody else can reach it.
 */
export async function startReceiver(host: string) {
  const secretPath = `/${randomUUID()}`;
  const deliveries: Delivery[] = [];
  const server = createServer(async (request, response) => {
    if (request.method !== 'POST' || request.url !== secretPath) return response.writeHead(404).end();
    if (Number(request.headers['content-length'] ?? 0) > MAX_BODY_BYTES) return response.writeHead(413).end();
    const body = await text(request).catch(() => undefined);
    if (body === undefined) return;
    deliveries.push({ headers: request.headers, body });
    response.writeHead(204).end();
    server.emit('delivery');
  });
  server.listen(0, host === LOOPBACK ? LOOPBACK : undefined);
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;

  return {
    url: `http://${isIPv6(host) ? `[${host}]` : host}:${port}${secretPath}`,
    /** Waits for one that `find` likes. */
    async arrived<T>(find: (delivery: Delivery) => T | undefined, signal: AbortSignal): Promise<T> {
      for (;;) {
        const found = deliveries.map(find).find((one) => one !== undefined);
        if (found !== undefined) return found;
        await once(server, 'delivery', { signal });
      }
    },
    async stop(): Promise<void> {
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}
