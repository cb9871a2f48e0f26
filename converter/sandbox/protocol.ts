import type { TaskEvent, TaskOutcome, TaskRequest } from '../run-task.ts';

/** What the converter sends to its sandbox: one task at a time, and that the task under way is to end. */
export type SandboxOrder = { kind: 'run'; request: TaskRequest } | { kind: 'abort'; reason: string };

/**
 * The messages that a sandbox sends. `ready` comes once, when the libraries are loaded; `warm` once after it, unless a
 * task comes first.
 */
export type SandboxMessage = { kind: 'ready' } | { kind: 'warm' } | TaskEvent | { kind: 'ended'; outcome: TaskOutcome };
