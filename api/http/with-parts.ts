import type { Request, RequestHandler, Response } from 'express';

type Handle<Parts, Params> = (parts: Parts, request: Request<Params>, response: Response) => void | Promise<void>;

/** Gives a function that makes a request handler of a function which takes the parts of its router first. */
export function withParts<Parts>(parts: Parts) {
  return <Params>(handle: Handle<Parts, Params>): RequestHandler<Params> =>
    (request, response) =>
      handle(parts, request, response);
}
