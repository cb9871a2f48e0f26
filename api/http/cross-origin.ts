import type { RequestHandler } from 'express';
import type { Origins } from './origins.ts';

const METHODS = 'GET, HEAD, POST, PUT, PATCH, DELETE';
const REQUEST_HEADERS =
  'Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, If-Range, Prefer, Range, Traceparent, Tracestate';
const RESPONSE_HEADERS =
  'Accept-Ranges, Content-Disposition, Content-Range, ETag, Location, Preference-Applied, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Request-Id';
const PREFLIGHT_SECONDS = 7_200;

/** Refuses requests of foreign pages before their body is read, and lets pages of ALLOWED_ORIGINS read answers (CORS). */
export function crossOrigin(origins: Origins): RequestHandler {
  return function handleOrigin(request, response, next) {
    const { origin } = request.headers;
    if (origins.hasAllowed) response.vary('Origin');
    if (origins.isAllowed(origin)) {
      response.set({ 'Access-Control-Allow-Origin': origin, 'Access-Control-Expose-Headers': RESPONSE_HEADERS });
    }
    origins.check(request, request.path);
    const isPreflight = request.method === 'OPTIONS' && request.headers['access-control-request-method'] !== undefined;
    if (!isPreflight || !origins.isAllowed(origin)) return next();
    response.set({
      'Access-Control-Allow-Methods': METHODS,
      'Access-Control-Allow-Headers': REQUEST_HEADERS,
      'Access-Control-Max-Age': String(PREFLIGHT_SECONDS),
    });
    response.status(204).end();
  };
}
