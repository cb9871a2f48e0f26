import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

/** A TCP proxy to Postgres. While closed, its clients see a Postgres that has ended. It starts closed. */
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
    const textsIn = statementReader();
    socket.on('data', (chunk) => {
      const texts = textsIn(chunk.toString('latin1'));
      if (unanswered !== undefined) {
        isMarked ||= texts.includes(unanswered.after);
        if (isMarked && texts.includes(unanswered.words)) {
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
      if (last === undefined || !texts.includes(last)) return;
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

/** Reads what a connection sends: gives it with the texts of the prepared statements that it names. */
function statementReader(): (sent: string) => string {
  const prepared = new Map<string, string>();
  return (sent) => {
    const named = [...prepared].flatMap(([name, text]) => (sent.includes(`\0${name}\0`) ? [text] : []));
    // A Parse message: its length, the name of the statement, which db/prepared-client.ts makes, and its text.
    for (const [, name = '', text = ''] of sent.matchAll(/P.{4}([\w-]{27})\0([^\0]+)\0/gs)) prepared.set(name, text);
    return [sent, ...named].join('\0');
  };
}
