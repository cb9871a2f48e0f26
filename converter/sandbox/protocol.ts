import type { PublicError } from '../../errors.ts';
import type { Inspection, PageOutcome } from '../../jobs/conversion.ts';
import type { TaskContext, TaskReturn } from '../../tasks/task.ts';

/** What the converter sends to its sandbox, and all that a task in it can know. */
export type SandboxRequest = Omit<TaskContext<Record<string, unknown>>, 'output' | 'inspected' | 'page'> & {
  type: string;
  /** The folder that stands for the store's root. */
  outputRoot: string;
};

/** What a task tells while it runs. */
export type SandboxEvent = { kind: 'inspected'; found: Inspection } | { kind: 'page'; outcome: PageOutcome };

/** What comes back over the channel. `ready` comes once, when the libraries are loaded. */
export type SandboxMessage =
  | { kind: 'ready' }
  | SandboxEvent
  | { kind: 'returned'; value: TaskReturn }
  | { kind: 'threw'; error: PublicError; retryable: boolean; detail: string };
