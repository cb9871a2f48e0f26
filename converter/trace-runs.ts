import { failSpan, inSpan, type Span } from '../runtime/tracing.ts';
import type { TaskEvent } from './run-task.ts';
import type { RunResult, TaskRunner } from './task-runner.ts';

/** Makes each run a span below `parent`, with the pages that it made as events. */
export function traceRuns(runner: Pick<TaskRunner, 'run'>, parent: Span): Pick<TaskRunner, 'run'> {
  return {
    run: (prepare, options) =>
      inSpan('sandbox run', parent, {}, async (span) => {
        const onEvent = (event: TaskEvent) => {
          addPage(span, event);
          return options.onEvent(event);
        };
        const result = await runner.run(prepare, { ...options, onEvent });
        describeResult(span, result);
        return result;
      }),
  };
}

function addPage(span: Span, event: TaskEvent): void {
  if (event.kind !== 'page') return;
  const { report } = event;
  const detail = report.status === 'completed' ? { engine: report.engine } : { error: report.error.code };
  span.addEvent('page', { page: report.page, status: report.status, ...detail });
}

function describeResult(span: Span, { outcome, peakMemoryMb }: RunResult): void {
  span.setAttributes({
    'sheetmill.outcome': outcome.kind === 'died' ? outcome.how : outcome.kind,
    ...(peakMemoryMb !== null && { 'sheetmill.peak_memory_mb': peakMemoryMb }),
  });
  if (outcome.kind === 'died' || outcome.kind === 'failed') failSpan(span, outcome.error.message);
}
