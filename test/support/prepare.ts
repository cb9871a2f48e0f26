import type { PrivateFolder } from '../../converter/files/private-folder.ts';
import type { TaskRequest } from '../../converter/run-task.ts';
import type { Prepare } from '../../converter/sandbox/pool.ts';

/** Prepares a run of this request, with a copy of its input if it has one. */
export function prepareFor(request: Omit<TaskRequest, 'outputFolder'>): Prepare {
  return async (own: PrivateFolder) => ({
    ...request,
    input: request.input === '' ? '' : await own.copyIn(request.input),
    outputFolder: own.output,
  });
}
