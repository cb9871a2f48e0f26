import { failSpan, inSpan, type Span } from '../runtime/tracing.ts';
import type { TaskEvent } from './run-task.ts';
import type { Lease } from './sandbox/pool.ts';

/** A sandbox each of whose runs is a span below `parent`, with the pages that it made as events. */
export function traced(sandbox: Pick<Lease, 'run'>, parent: Span): Pick<Lease, 'run'> {
  return {
    run(prepare, options) {
      return inSpan('sandbox run', parent, {}, async (span) => {
        const onEvent = (event: TaskEvent) => {
          if (event.kind === 'page') {
            const { report } = event;
            span.addEvent('page', {
              page: report.page,
              status: report.status,
              ...(report.status === 'completed' ? { engine: report.engine } : { error: report.error.code }),
            });
          }
          return options.onEvent(event);
        };
        const ran = await sandbox.run(prepare, { ...options, onEvent });
        const { outcome, peakMemoryMb } = ran;
        span.setAttributes({
          'sheetmill.outcome': outcome.kind === 'died' ? outcome.how : outcome.kind,
          ...(peakMemoryMb !== null && { 'sheetmill.peak_memory_mb': peakMemoryMb }),
        });
        if (outcome.kind === 'died' || outcome.kind === 'failed') failSpan(span, outcome.error.message);
        return ran;
      });
    },
  };
}
