import { randomUUID } from 'node:crypto';
import type { RequestHandler } from 'express';
import type { Logger } from '../../runtime/log.ts';
import { failSpan, SpanKind, startSpan, traceIdIn, traceparentOf } from '../../runtime/tracing.ts';
import { requestSeconds } from '../operations/metrics.ts';

/**
 * Gives each request an id and a place in its client's trace, for answers, logs and jobs; at its end there is one line in
 * the log, one span, and one count in the metrics, by the pattern of its route, so that no client can make more series.
 */
export function observeRequests(log: Logger): RequestHandler {
  return function observeRequest(request, response, next) {
    const { method, path } = request;
    const id = randomUUID();
    const span = startSpan(method, request.headers, {
      kind: SpanKind.SERVER,
      attributes: { 'http.request.method': method, 'url.path': path, 'sheetmill.request': id },
    });
    const traceparent = traceparentOf(span);
    response.locals.requestId = id;
    response.locals.traceparent = traceparent;
    response.set('X-Request-Id', id);
    const observe = requestSeconds.startTimer({ method });

    response.on('close', () => {
      const route: string | undefined = request.route?.path;
      // Of a client that went away before there was an answer, nobody can say what it would have been.
      const status = response.headersSent ? response.statusCode : undefined;
      const made = madeBy(response.get('Location'));
      observe({ route: route ?? 'none', status: status ?? 'aborted' });
      const { owner, jobs } = response.locals;
      log.info(
        {
          request: id,
          trace: traceIdIn(traceparent),
          method,
          path,
          owner,
          status,
          aborted: !response.writableFinished,
          ...made,
          jobs,
        },
        'request',
      );
      if (route !== undefined) span.updateName(`${method} ${route}`).setAttribute('http.route', route);
      if (status !== undefined) span.setAttribute('http.response.status_code', status);
      for (const [what, id] of Object.entries(made)) span.setAttribute(`sheetmill.${what}`, id);
      if (status !== undefined && status >= 500) failSpan(span);
      span.end();
    });
    next();
  };
}

/** What an answer says was made: so the line of its request can be found by what the lines of converters name. */
function madeBy(location: string | undefined): { upload?: string; job?: string } {
  const [, what, id] = /^\/(upload|job)s\/([^/]+)$/.exec(location ?? '') ?? [];
  return what === undefined || id === undefined ? {} : { [what]: decodeURIComponent(id) };
}
