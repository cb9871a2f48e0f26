import { randomUUID } from 'node:crypto';
import { type IncomingMessage, type Server, STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';
import { type WebSocket, WebSocketServer } from 'ws';
import type { z } from 'zod';
import type { Logger } from '../../runtime/log.ts';
import { Quota } from '../../runtime/quota.ts';
import type { Authorize } from '../http/authorize.ts';
import type { Caller } from '../http/caller.ts';
import type { Origins } from '../http/origins.ts';
import { headersOf, notFound, type Problem, problemOf } from '../http/problem.ts';
import { runFor } from '../http/requester.ts';
import { parse } from '../http/validate.ts';
import type { EventHub } from './event-hub.ts';
import { type Client, MAX_BACKLOG_BYTES } from './follower.ts';
import { Outbox } from './outbox.ts';
import { streamQuery } from './requests.ts';

const PATH = '/jobs/stream';
/** The subprotocol of the stream. A client may also offer `bearer.` with its token, which is no protocol that we choose. */
const PROTOCOL = 'sheetmill';
const MAX_TIMER_MS = 2 ** 31 - 1;
const PING_MS = 30_000;
/** How long `close` waits for the clients before it cuts their connections. */
const CLOSE_MS = 1_000;
const MAX_STREAMS = 1_000;
const MAX_STREAMS_PER_OWNER = 100;

/** Close codes of RFC 6455. */
const GOING_AWAY = 1001;
const POLICY_VIOLATION = 1008;
const INTERNAL_ERROR = 1011;
const TRY_AGAIN_LATER = 1013;

/** Decides which requests may open a stream. */
interface Gate {
  origins: Origins;
  authorize: Authorize;
}

type Query = z.output<typeof streamQuery>;

export interface EventStream {
  /** Closes all connections; those still open after a second are cut. */
  close(): Promise<void>;
}

/** Serves `GET /jobs/stream`, a WebSocket on which each event is one JSON message. The owner calls `close()`. */
export function attachStream(server: Server, hub: EventHub, gate: Gate, log: Logger): EventStream {
  return new StreamServer(server, hub, gate, log);
}

class StreamServer implements EventStream {
  readonly #hub: EventHub;
  readonly #gate: Gate;
  readonly #log: Logger;
  readonly #sockets = new WebSocketServer({
    noServer: true,
    maxPayload: 1024,
    clientTracking: true,
    handleProtocols: (offered) => offered.has(PROTOCOL) && PROTOCOL,
  });
  readonly #room = new Quota({ name: 'streams', max: MAX_STREAMS, maxPerRequester: MAX_STREAMS_PER_OWNER });
  /** The clients that have answered the last ping. */
  readonly #answering = new WeakSet<WebSocket>();
  readonly #pinging = setInterval(() => this.#ping(), PING_MS);

  constructor(server: Server, hub: EventHub, gate: Gate, log: Logger) {
    this.#hub = hub;
    this.#gate = gate;
    this.#log = log;
    server.on('upgrade', (request, socket, head) => void this.#upgrade(request, socket, head));
  }

  async close(): Promise<void> {
    clearInterval(this.#pinging);
    const clients = [...this.#sockets.clients];
    for (const client of clients) client.close(GOING_AWAY, 'server shutting down; reconnect with after=');
    const cutOff = setTimeout(() => {
      for (const client of this.#sockets.clients) client.terminate();
    }, CLOSE_MS);
    await Promise.all(clients.map((client) => new Promise((resolve) => client.once('close', resolve))));
    clearTimeout(cutOff);
    this.#sockets.close();
  }

  async #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    // An error closes the socket, which frees its room.
    socket.on('error', () => undefined);
    const id = randomUUID();
    try {
      const url = new URL(request.url ?? '', 'http://localhost');
      this.#gate.origins.check(request, url.pathname);
      const caller = await this.#gate.authorize(request, url.pathname);
      if (url.pathname !== PATH) throw notFound(`a WebSocket at ${url.pathname}`);
      const query = parse(streamQuery, Object.fromEntries(url.searchParams));
      if (socket.destroyed) return;
      socket.once('close', this.#room.take(caller.requester));
      this.#sockets.handleUpgrade(request, socket, head, (client) => {
        const line = { request: id, owner: caller.owner, job: query.job_id, upload: query.upload_id };
        client.on('close', (code) => this.#log.info({ ...line, code }, 'websocket closed'));
        this.#answering.add(client);
        client.on('pong', () => this.#answering.add(client));
        void runFor(caller.requester, () => serve(client, caller, query, this.#hub, this.#log));
      });
    } catch (error) {
      const problem = problemOf(error, id);
      const { status, code } = problem;
      this.#log.info({ request: id, status, code, ...(status >= 500 && { err: error }) }, 'stream refused');
      refuse(socket, problem);
    }
  }

  #ping(): void {
    for (const client of this.#sockets.clients) {
      if (!this.#answering.delete(client)) client.terminate();
      else client.ping();
    }
  }
}

/** Sends events until the client disconnects, its token expires, or it reads too slowly. */
async function serve(client: WebSocket, caller: Caller, query: Query, hub: EventHub, log: Logger): Promise<void> {
  const closed = new AbortController();
  client.on('close', () => closed.abort());
  client.on('error', (error) => log.info({ err: error }, 'websocket failed'));
  client.on('message', () => client.close(POLICY_VIOLATION, 'client messages are not accepted'));
  closeOnExpiry(client, caller);
  const outbox = new Outbox(client);
  function onOverrun(): void {
    closed.abort();
    outbox.clear();
    client.close(TRY_AGAIN_LATER, 'client reads too slowly; reconnect with after=');
  }
  const receiver: Client = {
    sendHistory(messages) {
      outbox.add(...messages);
      return outbox.emptied();
    },
    send(message) {
      if (outbox.bytes + message.length > MAX_BACKLOG_BYTES) onOverrun();
      else outbox.add(message);
    },
    onOverrun,
  };
  const filter = { jobId: query.job_id, uploadId: query.upload_id, owner: caller.sees };
  try {
    await hub.follow(filter, query.after, receiver, closed.signal);
  } catch (error) {
    log.warn({ err: error }, 'stream failed');
    client.close(INTERNAL_ERROR, 'events could not be read; reconnect with after=');
  }
}

function closeOnExpiry(client: WebSocket, { expires }: Caller): void {
  if (expires === undefined) return;
  const expiry = () => client.close(POLICY_VIOLATION, 'token expired; reconnect with after= and a new token');
  const timer = setTimeout(expiry, Math.min(Math.max(expires * 1000 - Date.now(), 0), MAX_TIMER_MS));
  client.on('close', () => clearTimeout(timer));
}

/** Writes a problem to the socket, since an upgrade has no response object. */
function refuse(socket: Duplex, problem: Problem): void {
  const { status } = problem;
  const body = JSON.stringify(problem);
  socket.once('finish', () => socket.destroy());
  socket.end(
    [
      `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
      ...Object.entries(headersOf(problem)).map(([name, value]) => `${name}: ${value}`),
      `Content-Length: ${Buffer.byteLength(body)}`,
      `X-Request-Id: ${problem.request_id}`,
      'Connection: close',
      '',
      body,
    ].join('\r\n'),
  );
}
