import { hostname } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import {
  type Attributes,
  DiagLogLevel,
  diag,
  propagation,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  trace,
} from '@opentelemetry/api';
import type { Config } from './config.ts';
import type { Logger } from './log.ts';

/** Spans for OpenTelemetry. All functions do nothing until `startTracing` finds a configured collector. */

export { type Span, SpanKind };

/** A process that ends waits this long until its last spans are sent. */
const FLUSH_MS = 3_000;
/** A collector that is out of reach is logged once in this time. */
const LOG_INTERVAL_MS = 60_000;

type TracingConfig = Pick<
  Config,
  | 'OTEL_EXPORTER_OTLP_ENDPOINT'
  | 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT'
  | 'OTEL_EXPORTER_OTLP_HEADERS'
  | 'OTEL_EXPORTER_OTLP_TRACES_HEADERS'
>;

const tracer = trace.getTracer('sheetmill');

/**
 * Sends the spans of this process to the collector at OTEL_EXPORTER_OTLP_ENDPOINT. Without one, the SDK is not loaded.
 * Returns a function that sends the remaining spans, for the end of the process.
 */
export async function startTracing(name: string, config: TracingConfig, log: Logger): Promise<() => Promise<void>> {
  if (!config.OTEL_EXPORTER_OTLP_ENDPOINT && !config.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) return async () => undefined;
  const [{ BatchSpanProcessor, NodeTracerProvider }, { OTLPTraceExporter }, resources] = await Promise.all([
    import('@opentelemetry/sdk-trace-node'),
    import('@opentelemetry/exporter-trace-otlp-proto'),
    import('@opentelemetry/resources'),
  ]);
  const logFailure = createFailureLog(log);
  const ignore = () => undefined;
  diag.setLogger(
    { error: logFailure, warn: logFailure, info: ignore, debug: ignore, verbose: ignore },
    { logLevel: DiagLogLevel.WARN },
  );
  const instance = { 'service.name': name, 'service.instance.id': `${hostname()}-${process.pid}` };
  const provider = new NodeTracerProvider({
    resource: resources
      .defaultResource()
      .merge(resources.resourceFromAttributes(instance))
      // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
      .merge(resources.detectResources({ detectors: [resources.envDetector] })),
    spanProcessors: [new BatchSpanProcessor(withHeaders(config, () => new OTLPTraceExporter()))],
  });
  // Parents are arguments. A context manager would slow down every asynchronous call.
  provider.register({ contextManager: null });
  return async function flush() {
    const late = delay(FLUSH_MS, undefined, { ref: false }).then(() => {
      throw new Error(`the collector took longer than ${FLUSH_MS / 1000} s`);
    });
    await Promise.race([provider.shutdown(), late]).catch((error) =>
      log.warn({ err: error }, 'the last spans were not sent'),
    );
  };
}

/** The SDK reads the headers, which are secret, from the environment while it makes an exporter. */
function withHeaders<Exporter>(
  { OTEL_EXPORTER_OTLP_HEADERS = '', OTEL_EXPORTER_OTLP_TRACES_HEADERS = '' }: TracingConfig,
  makeExporter: () => Exporter,
): Exporter {
  Object.assign(process.env, { OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_TRACES_HEADERS });
  try {
    return makeExporter();
  } finally {
    delete process.env.OTEL_EXPORTER_OTLP_HEADERS;
    delete process.env.OTEL_EXPORTER_OTLP_TRACES_HEADERS;
  }
}

/** Logs the messages of the SDK, which are plain text, at intervals. */
function createFailureLog(log: Logger): (text: string) => void {
  let pausedUntil = 0;
  return function logFailure(text) {
    if (performance.now() < pausedUntil) return;
    pausedUntil = performance.now() + LOG_INTERVAL_MS;
    log.warn({ text: text.slice(0, 500) }, 'spans not sent');
  };
}

/**
 * Starts a span below another span, or below the `traceparent` of a request or a row. Without a parent it starts a trace.
 * The caller ends it.
 */
export function startSpan(
  name: string,
  parent: Span | object,
  { kind = SpanKind.INTERNAL, attributes = {} }: { kind?: SpanKind; attributes?: Attributes } = {},
): Span {
  const context = isSpan(parent) ? trace.setSpan(ROOT_CONTEXT, parent) : propagation.extract(ROOT_CONTEXT, parent);
  return tracer.startSpan(name, { kind, attributes }, context);
}

function isSpan(parent: Span | object): parent is Span {
  return 'spanContext' in parent;
}

/** Runs `work` as a span that ends, or fails, with it. The span has no message of an error, which may hold secrets. */
export async function inSpan<Result>(
  name: string,
  parent: Span | object,
  options: { kind?: SpanKind; attributes?: Attributes },
  work: (span: Span) => Promise<Result>,
): Promise<Result> {
  const span = startSpan(name, parent, options);
  try {
    return await work(span);
  } catch (error) {
    failSpan(span);
    throw error;
  } finally {
    span.end();
  }
}

/** Marks a span as failed. @param message public, as clients see it */
export function failSpan(span: Span, message?: string): void {
  span.setStatus({ code: SpanStatusCode.ERROR, ...(message !== undefined && { message }) });
}

/** The W3C `traceparent` of a span, for a process that continues its trace; null when nothing is traced. */
export function traceparentOf(span: Span): string | null {
  const carrier: { traceparent?: string } = {};
  propagation.inject(trace.setSpan(ROOT_CONTEXT, span), carrier);
  return carrier.traceparent ?? null;
}

/** The id of a trace, for log lines. */
export function traceIdIn(traceparent: string | null): string | undefined {
  return traceparent?.split('-')[1];
}
