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

/** Spans for OpenTelemetry. Until `startTracing` has found a collector configured, all of this does nothing. */

export { type Span, SpanKind };

/** How long the end of a process waits for the last spans to be taken. */
const FLUSH_MS = 3_000;
/** A collector that is away is worth one line in this time. */
const QUIET_MS = 60_000;

type TracingConfig = Pick<
  Config,
  | 'OTEL_EXPORTER_OTLP_ENDPOINT'
  | 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT'
  | 'OTEL_EXPORTER_OTLP_HEADERS'
  | 'OTEL_EXPORTER_OTLP_TRACES_HEADERS'
>;

const tracer = trace.getTracer('sheetmill');

/**
 * Sends the spans of this process to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names; without one, nothing is even
 * loaded. Gives the function that sends what is left, to be called at the end.
 */
export async function startTracing(name: string, config: TracingConfig, log: Logger): Promise<() => Promise<void>> {
  if (!config.OTEL_EXPORTER_OTLP_ENDPOINT && !config.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) return async () => undefined;
  const [{ BatchSpanProcessor, NodeTracerProvider }, { OTLPTraceExporter }, resources] = await Promise.all([
    import('@opentelemetry/sdk-trace-node'),
    import('@opentelemetry/exporter-trace-otlp-proto'),
    import('@opentelemetry/resources'),
  ]);
  const complain = complainTo(log);
  const ignore = () => undefined;
  diag.setLogger(
    { error: complain, warn: complain, info: ignore, debug: ignore, verbose: ignore },
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
  // Parents are handed on as arguments: nothing follows asynchronous calls, which would cost each of them.
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

/** The SDK takes the headers of spans, which are secret, from the environment while an exporter is made. */
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

/** All that the SDK has to say of what fails is text. */
function complainTo(log: Logger): (text: string) => void {
  let quietUntil = 0;
  return function complain(text) {
    if (performance.now() < quietUntil) return;
    quietUntil = performance.now() + QUIET_MS;
    log.warn({ text: text.slice(0, 500) }, 'spans not sent');
  };
}

/**
 * Begins a span, below another one or below what the `traceparent` of a request or a row names; where there is none, it begins
 * a trace. The caller ends it.
 */
export function startSpan(
  name: string,
  parent: Span | object,
  { kind = SpanKind.INTERNAL, attributes = {} }: { kind?: SpanKind; attributes?: Attributes } = {},
): Span {
  const above =
    'spanContext' in parent ? trace.setSpan(ROOT_CONTEXT, parent as Span) : propagation.extract(ROOT_CONTEXT, parent);
  return tracer.startSpan(name, { kind, attributes }, above);
}

/** Runs `work` as a span that ends, or fails, with it. What an error says is left to the log: it may hold what nobody else may see. */
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

/** Marks a span as failed; `message` is what a client may read, too. */
export function failSpan(span: Span, message?: string): void {
  span.setStatus({ code: SpanStatusCode.ERROR, ...(message !== undefined && { message }) });
}

/** Names a span to whoever goes on with its trace; null when nothing is traced. */
export function traceparentOf(span: Span): string | null {
  const carrier: { traceparent?: string } = {};
  propagation.inject(trace.setSpan(ROOT_CONTEXT, span), carrier);
  return carrier.traceparent ?? null;
}

/** The id of its trace, as log lines name it. */
export function traceIdIn(traceparent: string | null): string | undefined {
  return traceparent?.split('-')[1];
}
