import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

/** A way to Postgres that can be closed: for who goes it, as if Postgres had ended. It begins closed. `stop` when done. */
export async function startWay(databaseUrl: string) {
  const target = new URL(databaseUrl);
  const sockets = new Set<Socket>();
  let isOpen = false;
  let refused = 0;
  let accepted = 0;
  let last: string | undefined;
  let unanswered: { words: string; after: string; resolve: () => void } | undefined;

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
    accepted++;
    let isMarked = false;
    const onward = connect(Number(target.port), target.hostname);
    socket.on('data', (chunk) => {
      if (unanswered !== undefined) {
        isMarked ||= chunk.includes(unanswered.after);
        if (isMarked && chunk.includes(unanswered.words)) {
          const { resolve } = unanswered;
          unanswered = undefined;
          onward.unpipe(socket);
          // Postgres has answered, and so has done what it was asked for.
          onward.once('data', () => {
            socket.destroy();
            resolve();
          });
          onward.resume();
        }
      }
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
    /** How many connections it has let through. */
    accepted: () => accepted,
    /**
     * Lets Postgres do what the next connection asks for with these words, after it has sent `after`, and cuts that connection
     * before the answer. Resolves when that has happened.
     */
    loseAnswer(words: string, after: string): Promise<void> {
      return new Promise((resolve) => {
        unanswered = { words, after, resolve };
      });
    },
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
