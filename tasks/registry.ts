import { convert } from './convert.ts';
import { convertRange } from './convert-range.ts';
import type { Task } from './task.ts';

/** Every job type by its name. */
export const TASKS: ReadonlyMap<string, Task> = new Map(
  [convert, convertRange].map((task) => [task.type, task as unknown as Task]),
);
