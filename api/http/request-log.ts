import type { RequestHandler, Response } from 'express';
import type { Logger } from '../../runtime/log.ts';
import { failSpan, type Span, SpanKind, startSpan, traceIdIn, traceparentOf } from '../../runtime/tracing.ts';
import { requestSeconds } from '../operations/metrics.ts';
import { stateOf } from './request-state.ts';

/**
 * Writes one log line, one span and one metric for each request, and continues the trace of its client. Metrics name the
 * pattern of the route, so that clients cannot create any number of time series.
 */
export function observeRequests(log: Logger): RequestHandler {
  return function observeRequest(request, response, next) {
    const { method, path } = request;
    const state = stateOf(request);
    const span = startSpan(method, request.headers, {
      kind: SpanKind.SERVER,
      attributes: { 'http.request.method': method, 'url.path': path, 'sheetmill.request': state.id },
    });
    state.traceparent = traceparentOf(span);
    response.set('X-Request-Id', state.id);
    const stopTimer = requestSeconds.startTimer({ method });

    response.on('close', () => {
      const route: string | undefined = request.route?.path;
      const status = response.headersSent ? response.statusCode : undefined;
      stopTimer({ route: route ?? 'none', status: status ?? 'aborted' });
      const created = createdBy(response);
      const { id, traceparent, caller, loggedJobs } = state;
      log.info(
        {
          request: id,
          trace: traceIdIn(traceparent),
          method,
          path,
          owner: caller?.owner,
          status,
          aborted: !response.writableFinished,
          ...created,
          jobs: loggedJobs,
        },
        'request',
      );
      endSpan(span, { method, route, status, created });
    });
    next();
  };
}

interface Outcome {
  method: string;
  route: string | undefined;
  /** Undefined when the client disconnected before the answer. */
  status: number | undefined;
  created: Created;
}

function endSpan(span: Span, { method, route, status, created }: Outcome): void {
  if (route !== undefined) span.updateName(`${method} ${route}`).setAttribute('http.route', route);
  if (status !== undefined) span.setAttribute('http.response.status_code', status);
  for (const [kind, id] of Object.entries(created)) span.setAttribute(`sheetmill.${kind}`, id);
  if (status !== undefined && status >= 500) failSpan(span);
  span.end();
}

interface Created {
  upload?: string;
  job?: string;
}

/** The upload or job that the request created, so that its log line can be found by the id in the lines of converters. */
function createdBy(response: Response): Created {
  const [, kind, id] = /^\/(upload|job)s\/([^/]+)$/.exec(response.get('Location') ?? '') ?? [];
  return kind === undefined || id === undefined ? {} : { [kind]: decodeURIComponent(id) };
}
