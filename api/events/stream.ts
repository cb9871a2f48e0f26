import { randomUUID } from 'node:crypto';
import { type IncomingMessage, type Server, STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';
import { type WebSocket, WebSocketServer } from 'ws';
import type { z } from 'zod';
import type { Logger } from '../../runtime/log.ts';
import { Quota } from '../../runtime/quota.ts';
import type { Admission, Caller } from '../http/admission.ts';
import { holderOf, runFor } from '../http/holder.ts';
import type { Origins } from '../http/origins.ts';
import { headersOf, notFound, type Problem, parse, problemOf } from '../http/problem.ts';
import { streamQuery } from '../http/schemas.ts';
import type { EventHub } from './event-hub.ts';
import { type Client, MAX_BACKLOG_BYTES } from './follower.ts';
import { Outbox } from './outbox.ts';

const PATH = '/jobs/stream';
/** The subprotocol that is spoken; a client that offers a `bearer.` one besides, with its token, is asked nothing else. */
const PROTOCOL = 'sheetmill';
const MAX_TIMER_MS = 2 ** 31 - 1;
const PING_MS = 30_000;
const MAX_STREAMS = 1_000;
const MAX_STREAMS_PER_OWNER = 100;

/** Codes of RFC 6455. */
const GOING_AWAY = 1001;
const POLICY_VIOLATION = 1008;
const INTERNAL_ERROR = 1011;
const TRY_AGAIN_LATER = 1013;

/** `GET /jobs/stream`: a WebSocket on which each event is one JSON message. The owner calls `close()`. */
export function attachStream(server: Server, hub: EventHub, gate: { origins: Origins; admit: Admission }, log: Logger) {
  const sockets = new WebSocketServer({
    noServer: true,
    maxPayload: 1024,
    clientTracking: true,
    handleProtocols: (offered) => offered.has(PROTOCOL) && PROTOCOL,
  });
  const answering = new WeakSet<WebSocket>();
  const streams = new Quota({ name: 'streams', max: MAX_STREAMS, maxPerRequester: MAX_STREAMS_PER_OWNER });

  server.on('upgrade', async (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    socket.on('error', () => undefined);
    const id = randomUUID();
    try {
      const url = new URL(request.url ?? '', 'http://localhost');
      gate.origins.check(request, url.pathname);
      const caller = await gate.admit(request, url.pathname);
      if (url.pathname !== PATH) throw notFound(`a WebSocket at ${url.pathname}`);
      const query = parse(streamQuery, Object.fromEntries(url.searchParams));
      if (socket.destroyed) return;
      socket.once('close', streams.take(holderOf(caller)));
      sockets.handleUpgrade(request, socket, head, (client) => {
        const { owner } = caller;
        client.on('close', (code) =>
          log.info({ request: id, owner, job: query.job_id, upload: query.upload_id, code }, 'stream'),
        );
        answering.add(client);
        client.on('pong', () => answering.add(client));
        void runFor(holderOf(caller), () => serve(client, caller, query, { hub, log }));
      });
    } catch (error) {
      const problem = problemOf(error, id);
      const { status, code } = problem;
      log.info({ request: id, status, code, ...(status >= 500 && { err: error }) }, 'stream refused');
      refuse(socket, problem);
    }
  });

  const pinging = setInterval(() => {
    for (const client of sockets.clients) {
      if (!answering.delete(client)) client.terminate();
      else client.ping();
    }
  }, PING_MS);

  return {
    /** Sends everybody away; those that do not go within a second are cut off. */
    async close(): Promise<void> {
      clearInterval(pinging);
      for (const client of sockets.clients) client.close(GOING_AWAY, 'the server stops; resume elsewhere with after=');
      const cutOff = setTimeout(() => {
        for (const client of sockets.clients) client.terminate();
      }, 1_000);
      await Promise.all([...sockets.clients].map((client) => new Promise((resolve) => client.once('close', resolve))));
      clearTimeout(cutOff);
      sockets.close();
    },
  };
}

/** Sends what a client asked for until it goes away, its token expires, or it reads too slowly. */
async function serve(
  client: WebSocket,
  { sees, expires }: Caller,
  { job_id, upload_id, after }: z.output<typeof streamQuery>,
  { hub, log }: { hub: EventHub; log: Logger },
): Promise<void> {
  const gone = new AbortController();
  client.on('close', () => gone.abort());
  if (expires !== undefined) {
    const expiry = () => client.close(POLICY_VIOLATION, 'the token has expired; resume with after= and another');
    const timer = setTimeout(expiry, Math.min(Math.max(expires * 1000 - Date.now(), 0), MAX_TIMER_MS));
    client.on('close', () => clearTimeout(timer));
  }
  client.on('error', (error) => log.info({ err: error }, 'stream broken'));
  client.on('message', () => client.close(POLICY_VIOLATION, 'nothing is expected from the client'));
  const outbox = new Outbox(client);
  function onOverrun(): void {
    gone.abort();
    outbox.clear();
    client.close(TRY_AGAIN_LATER, 'reads too slowly; resume with after=');
  }
  const filter = { jobId: job_id, uploadId: upload_id, owner: sees };
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
  try {
    await hub.follow(filter, after, receiver, gone.signal);
  } catch (error) {
    log.warn({ err: error }, 'stream fails');
    client.close(INTERNAL_ERROR, 'events cannot be read just now; resume with after=');
  }
}

/** There is no response object on an upgrade: the problem is written as it goes over the wire. */
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
