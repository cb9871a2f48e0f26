import type { ConversionTask } from '../../conversion/conversion-task.ts';
import type { RegisteredTask } from '../../conversion/registry.ts';
import type { UploadTask } from '../../conversion/upload-task.ts';
import { convertOriginal, convertPages } from './convert.ts';

/** The code of the conversions. Only sandboxes load this module, because it loads the engines. */
export const conversions: Record<ConversionTask['type'], UploadTask['run']> = {
  convert: convertOriginal,
  convert_range: convertPages,
};

/** Returns the task with its code, which the definition of a conversion lacks. */
export function withCode(task: RegisteredTask): UploadTask {
  return 'run' in task ? task : { ...task, run: conversions[task.type] };
}
