import { pathToFileURL } from 'node:url';
import type { Task } from '../jobs/task.ts';
import { taskLimits } from '../jobs/task-limits.ts';
import { archive } from './tasks/archive.ts';
import { checksum } from './tasks/checksum.ts';
import { convert } from './tasks/convert.ts';
import { convertRange } from './tasks/convert-range.ts';

/** Every job type by its name. */
export type Tasks = ReadonlyMap<string, Task>;

/**
 * The built-in tasks, and those that the module at `modulePath` exports by default as an array. Throws an error of one
 * line when the module cannot be loaded, or a task in it is not one.
 */
export async function loadTasks(modulePath: string | undefined): Promise<Tasks> {
  const builtIn = [convert, convertRange, archive, checksum] as unknown as Task[];
  const tasks = new Map(builtIn.map((task) => [task.type, task]));
  if (modulePath === undefined) return tasks;
  const refuse = (reason: string, cause?: unknown) => new Error(`TASKS=${modulePath}: ${reason}`, { cause });
  const module = await import(pathToFileURL(modulePath).href).catch((error: Error) => {
    throw refuse(error.message, error);
  });
  if (!Array.isArray(module.default)) throw refuse('its default export is not an array of tasks');
  for (const task of module.default as Task[]) {
    if (
      typeof task?.type !== 'string' ||
      typeof task.run !== 'function' ||
      typeof task.payload?.safeParse !== 'function'
    ) {
      throw refuse('it exports something that was not made with defineTask');
    }
    if (tasks.has(task.type)) throw refuse(`there is a task ${task.type} already`);
    if (task.resources.cpuUnits < (task.trusted ? 0 : 1))
      throw refuse(`${task.type}: only a trusted task may reserve no CPU`);
    if (task.filePath !== undefined && task.reads === undefined)
      throw refuse(`${task.type}: only a task that reads an upload may have a filePath`);
    const wrong = taskLimits.safeParse(task).error?.issues[0];
    if (wrong !== undefined) throw refuse(`${task.type}: ${wrong.path.join('.')}: ${wrong.message}`);
    tasks.set(task.type, task);
  }
  return tasks;
}
