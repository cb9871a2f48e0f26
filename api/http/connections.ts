import type { Server } from 'node:http';
import type { Socket } from 'node:net';

export interface ConnectionLimits {
  maxConnections: number;
  /** The maximum of connections from one address that no authorized request has used; clients behind one proxy share it. */
  maxUnknownPerAddress: number;
}

interface Connection {
  socket: Socket;
  address: string;
  /** True once an authorized request has used it. */
  isKnown: boolean;
  /** Requests in progress. */
  requests: number;
}

/**
 * Limits the connections of one API process. At the limit, a new connection replaces the least recently used connection
 * that is unknown, else the least recently used one that is known and idle.
 */
export class Connections {
  readonly #limits: ConnectionLimits;
  readonly #all = new Map<Socket, Connection>();
  /** Connections that may be closed. These sets are ordered by last use. */
  readonly #unknown = new Set<Connection>();
  readonly #unknownByAddress = new Map<string, Set<Connection>>();
  readonly #idle = new Set<Connection>();

  constructor(limits: ConnectionLimits) {
    this.#limits = limits;
  }

  /** Call it once, before the server listens. */
  watch(server: Server): void {
    server.on('connection', (socket) => this.#add(socket));
    server.on('request', ({ socket }, response) => {
      const connection = this.#all.get(socket);
      if (connection === undefined) return;
      this.#countRequest(connection, 1);
      response.once('close', () => this.#countRequest(connection, -1));
    });
    // A stream is one request that lasts until its connection ends.
    server.on('upgrade', ({ socket }) => {
      const connection = this.#all.get(socket);
      if (connection !== undefined) connection.requests++;
    });
  }

  /** Marks the connection of an authorized request as known. */
  trust(socket: Socket): void {
    const connection = this.#all.get(socket);
    if (connection === undefined) return;
    connection.isKnown = true;
    this.#markUsed(connection);
  }

  #add(socket: Socket): void {
    const { maxConnections, maxUnknownPerAddress } = this.#limits;
    const hasRoom =
      this.#all.size < maxConnections || this.#closeOldest(this.#unknown) || this.#closeOldest(this.#idle);
    if (!hasRoom) {
      socket.destroy();
      return;
    }
    const address = socket.remoteAddress ?? '';
    const unknown = this.#unknownByAddress.get(address) ?? new Set();
    if (unknown.size >= maxUnknownPerAddress) this.#closeOldest(unknown);
    const connection = { socket, address, isKnown: false, requests: 0 };
    this.#all.set(socket, connection);
    socket.once('close', () => this.#remove(connection));
    this.#markUsed(connection);
  }

  #countRequest(connection: Connection, change: 1 | -1): void {
    connection.requests += change;
    this.#markUsed(connection);
  }

  /** Moves the connection to the end of the sets to which it belongs. */
  #markUsed(connection: Connection): void {
    this.#withdraw(connection);
    const { socket, address, isKnown, requests } = connection;
    if (!this.#all.has(socket)) return;
    if (!isKnown) {
      this.#unknown.add(connection);
      this.#unknownByAddress.set(address, (this.#unknownByAddress.get(address) ?? new Set()).add(connection));
    } else if (requests === 0) {
      this.#idle.add(connection);
    }
  }

  /** Removes the connection from the sets of connections that may be closed. */
  #withdraw(connection: Connection): void {
    const { address } = connection;
    this.#idle.delete(connection);
    this.#unknown.delete(connection);
    const unknown = this.#unknownByAddress.get(address);
    unknown?.delete(connection);
    if (unknown?.size === 0) this.#unknownByAddress.delete(address);
  }

  #remove(connection: Connection): void {
    this.#all.delete(connection.socket);
    this.#withdraw(connection);
  }

  #closeOldest(connections: Set<Connection>): boolean {
    const [oldest] = connections;
    if (oldest === undefined) return false;
    this.#remove(oldest);
    oldest.socket.destroy();
    return true;
  }
}
