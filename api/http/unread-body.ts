import { finished } from 'node:stream';
import type { Request, RequestHandler, Response } from 'express';

/** How long a client may continue to send its body after the answer, so that it can read the answer. */
const LINGER_MS = 5_000;

/** Closes the connection of a client that continues to send its body after the answer: Node would read all of it. */
export const limitUnreadBody: RequestHandler = (request, response, next) => {
  response.once('finish', () => {
    if (request.complete) return;
    const cutOff = setTimeout(() => request.destroy(), LINGER_MS).unref();
    finished(request, () => clearTimeout(cutOff));
  });
  next();
};

/**
 * Lets the client read an answer that is sent before its body was received completely. Otherwise the end of the answer
 * resets the connection of a client that sent `Connection: close`.
 */
export function keepOpenForAnswer(request: Request, response: Response): void {
  const { shouldKeepAlive } = response;
  response.shouldKeepAlive = true;
  response.once('finish', () => {
    finished(request, () => {
      if (!shouldKeepAlive) request.socket.end();
    });
  });
}
