import type { Server } from 'node:http';
import type { Socket } from 'node:net';

/**
 * Bounds the connections of one API process. When there is no room for a new one, the connection that is worth least is
 * closed: the oldest that no client has used with a good key, or else the one that has been idle for longest.
 */

export interface Bounds {
  /** Of all clients. */
  maxConnections: number;
  /** From one address, of connections that no client has used with a good key: others behind the same proxy need theirs. */
  maxUnknownPerAddress: number;
}

interface Connection {
  socket: Socket;
  address: string;
  isKnown: boolean;
  /** Requests that are being answered. */
  requests: number;
}

export function createConnections({ maxConnections, maxUnknownPerAddress }: Bounds) {
  const all = new Map<Socket, Connection>();
  /** Those that may be closed, each set in the order of last use. */
  const unknown = new Set<Connection>();
  const unknownFrom = new Map<string, Set<Connection>>();
  const idle = new Set<Connection>();

  function withdraw(connection: Connection): void {
    const { address } = connection;
    idle.delete(connection);
    unknown.delete(connection);
    unknownFrom.get(address)?.delete(connection);
    if (unknownFrom.get(address)?.size === 0) unknownFrom.delete(address);
  }

  /** Puts it where it may be closed, as the last. */
  function offer(connection: Connection): void {
    withdraw(connection);
    if (!all.has(connection.socket)) return;
    if (connection.isKnown) {
      if (connection.requests === 0) idle.add(connection);
      return;
    }
    const { address } = connection;
    unknown.add(connection);
    unknownFrom.set(address, (unknownFrom.get(address) ?? new Set()).add(connection));
  }

  function remove(connection: Connection): void {
    all.delete(connection.socket);
    withdraw(connection);
  }

  function closeFirst(connections: Set<Connection> | undefined): boolean {
    const [first] = connections ?? [];
    if (first === undefined) return false;
    remove(first);
    first.socket.destroy();
    return true;
  }

  function onConnection(socket: Socket): void {
    const address = socket.remoteAddress ?? '';
    const isRoom = all.size < maxConnections || closeFirst(unknown) || closeFirst(idle);
    if (!isRoom) {
      socket.destroy();
      return;
    }
    if ((unknownFrom.get(address)?.size ?? 0) >= maxUnknownPerAddress) closeFirst(unknownFrom.get(address));
    const connection = { socket, address, isKnown: false, requests: 0 };
    all.set(socket, connection);
    socket.once('close', () => remove(connection));
    offer(connection);
  }

  return {
    /** To be called once, before the server listens. */
    watch(server: Server): void {
      server.on('connection', onConnection);
      server.on('request', ({ socket }, response) => {
        const connection = all.get(socket);
        if (connection === undefined) return;
        connection.requests++;
        offer(connection);
        response.once('close', () => {
          connection.requests--;
          offer(connection);
        });
      });
      // A stream is one request that lasts until its connection ends.
      server.on('upgrade', ({ socket }) => {
        const connection = all.get(socket);
        if (connection !== undefined) connection.requests++;
      });
    },
    /** Keeps a connection whose client was let in. While its request is answered, nothing closes it for others. */
    trust(socket: Socket): void {
      const connection = all.get(socket);
      if (connection === undefined) return;
      connection.isKnown = true;
      offer(connection);
    },
  };
}
