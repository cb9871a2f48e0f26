import { constants } from 'node:os';
import type { Step } from '../../jobs/task.ts';
import type { AbnormalEnd } from '../task-runner.ts';
import { MAX_FILES_MB } from './disk-limit.ts';

/** The reasons for which a sandbox ends abnormally, with the error of its job. */

/** V8 and glibc end with these when an allocation is refused. */
const OUT_OF_MEMORY_SIGNALS: readonly (string | null)[] = ['SIGABRT', 'SIGTRAP'];
/** A shell reports the signal that ended its child as an exit code above this one. */
const SIGNAL_CODES = 128;

export const PROTOCOL_VIOLATION: AbnormalEnd = {
  kind: 'died',
  how: 'violated',
  error: { code: 'sandbox_violation', message: 'sandbox sent invalid data' },
};

/** Explains the exit of a sandbox that the converter did not kill. */
export function classifyExit(
  { code, signal }: { code: number | null; signal: string | null },
  step: Step | null,
  memoryMb: number,
): AbnormalEnd {
  const by = signal ?? signalIn(code);
  if (OUT_OF_MEMORY_SIGNALS.includes(by)) return memoryExceeded(step, memoryMb);
  if (by === 'SIGKILL') {
    return { kind: 'died', how: 'killed', error: { code: 'out_of_memory', message: 'sandbox was killed externally' } };
  }
  return crashed(step, by === null ? `exit code ${code}` : by);
}

export function memoryExceeded(step: Step | null, memoryMb: number): AbnormalEnd {
  const message = `${nameOf(step)} needs more than the ${memoryMb} MB reserved`;
  return { kind: 'died', how: 'outgrown', error: { code: 'out_of_memory', message } };
}

export function stepTimedOut(step: Step, limitSeconds: number): AbnormalEnd {
  const message = `${nameOf(step)} took longer than ${limitSeconds} s`;
  return { kind: 'died', how: 'overdue', error: { code: 'timeout', message } };
}

export function diskExceeded(step: Step | null): AbnormalEnd {
  const message = `${nameOf(step)} wrote more than ${MAX_FILES_MB} MB`;
  return { kind: 'died', how: 'overfull', error: { code: 'task_failed', message } };
}

/** An engine that crashes cannot read the file; another engine may. Without a step, the file is not to blame. */
function crashed(step: Step | null, reason: string): AbnormalEnd {
  const error =
    step === null
      ? ({ code: 'internal', message: `sandbox crashed (${reason})` } as const)
      : ({ code: 'corrupt_file', message: `${nameOf(step)} failed: the engine crashed` } as const);
  return { kind: 'died', how: 'crashed', error };
}

/** The signal in the exit code of a shell, or of Node after an abort. */
function signalIn(code: number | null): string | null {
  const number = (code ?? 0) - SIGNAL_CODES;
  return Object.entries(constants.signals).find(([, value]) => value === number)?.[0] ?? null;
}

function nameOf(step: Step | null): string {
  if (step === null) return 'the task';
  return step.page === null ? 'opening the file' : `page ${step.page}`;
}
