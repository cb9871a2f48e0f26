import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

/** A way to Postgres that can be closed: for who goes it, as if Postgres had ended. It begins closed. `stop` when done. */
export async function startWay(databaseUrl: string) {
  const target = new URL(databaseUrl);
  const sockets = new Set<Socket>();
  let isOpen = false;
  let refused = 0;
  let last: string | undefined;

  function close(): void {
    isOpen = false;
    refused = 0;
    for (const socket of sockets) socket.destroy();
  }

  const server = createServer((socket) => {
    if (!isOpen) {
      refused++;
      socket.destroy();
      return;
    }
    const onward = connect(Number(target.port), target.hostname);
    socket.on('data', (chunk) => {
      if (last === undefined || !chunk.includes(last)) return;
      last = undefined;
      close();
    });
    for (const [one, other] of [
      [socket, onward],
      [onward, socket],
    ] as const) {
      sockets.add(one);
      one.on('error', () => undefined);
      one.on('close', () => {
        sockets.delete(one);
        other.destroy();
      });
      one.pipe(other);
    }
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = new URL(databaseUrl);
  url.port = String((server.address() as AddressInfo).port);

  return {
    url: url.href,
    /** How often somebody came while it was closed. */
    refused: () => refused,
    open(): void {
      isOpen = true;
    },
    close,
    /** Closes as soon as somebody sends this. */
    closeAt(words: string): void {
      last = words;
    },
    async stop(): Promise<void> {
      close();
      server.close();
      await once(server, 'close');
    },
  };
}
