import { pathToFileURL } from 'node:url';
import { taskLimits } from '../jobs/task-limits.ts';
import type { ConversionTask } from './conversion-task.ts';
import { archive } from './tasks/archive.ts';
import { checksum } from './tasks/checksum.ts';
import { convert } from './tasks/convert.ts';
import { convertRange } from './tasks/convert-range.ts';
import type { UploadTask } from './upload-task.ts';

export type RegisteredTask = UploadTask | ConversionTask;
/** Every job type by its name. */
export type Tasks = ReadonlyMap<string, RegisteredTask>;

const BUILT_IN: RegisteredTask[] = [convert, convertRange, archive, checksum];

/**
 * Returns the built-in tasks, and those that the module at `modulePath` exports by default as an array. Throws an error of
 * one line when the module cannot be loaded or a task is invalid.
 */
export async function loadTasks(modulePath: string | undefined): Promise<Tasks> {
  const tasks = new Map<string, RegisteredTask>(BUILT_IN.map((task) => [task.type, task]));
  if (modulePath === undefined) return tasks;
  const refuse = (reason: string, cause?: unknown) => new Error(`TASKS=${modulePath}: ${reason}`, { cause });
  const module: { default?: unknown } = await import(pathToFileURL(modulePath).href).catch((error: Error) => {
    throw refuse(error.message, error);
  });
  if (!Array.isArray(module.default)) throw refuse('the default export is not an array of tasks');
  for (const task of module.default) {
    if (!isTask(task)) throw refuse('an exported task was not made with defineTask');
    if (tasks.has(task.type)) throw refuse(`there is a task ${task.type} already`);
    const problem = problemOf(task);
    if (problem !== undefined) throw refuse(`${task.type}: ${problem}`);
    tasks.set(task.type, task);
  }
  return tasks;
}

/** True for a value with the parts that `defineTask` requires; their details cannot be checked. */
function isTask(value: Partial<UploadTask> | null): value is UploadTask {
  const hasPayload = typeof value?.payload?.safeParse === 'function';
  return hasPayload && typeof value.type === 'string' && typeof value.run === 'function';
}

function problemOf(task: UploadTask): string | undefined {
  if (task.resources.cpuUnits < (task.trusted ? 0 : 1)) return 'only a trusted task may reserve no CPU';
  if (task.filePath !== undefined && task.reads === undefined)
    return 'only a task that reads an upload may have a filePath';
  const wrong = taskLimits.safeParse(task).error?.issues[0];
  return wrong && `${wrong.path.join('.')}: ${wrong.message}`;
}
