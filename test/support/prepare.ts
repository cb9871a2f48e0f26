import type { PrivateFolder } from '../../converter/files/private-folder.ts';
import type { TaskRequest } from '../../converter/run-task.ts';

type Prepared = Omit<TaskRequest, 'outputFolder'>;

/** A request with defaults for everything that a test does not set. */
export function taskRequest(given: Partial<Prepared> = {}): Prepared {
  return {
    type: 'test',
    payload: {},
    attempt: 1,
    files: { originals: [], pages: [] },
    input: '',
    password: null,
    dependencies: [],
    settledPages: [],
    failedSteps: [],
    reservation: { cpuUnits: 1, memoryMb: 256 },
    limits: { maxPages: 10, maxPixels: 1e8, stepSeconds: 30, firstEngine: 'pdfium' },
    ...given,
  };
}

/** Prepares a run of this request, with a copy of its input if it has one. */
export function prepareFor(request: Prepared) {
  return async (own: PrivateFolder, failedSteps = request.failedSteps): Promise<TaskRequest> => ({
    ...request,
    failedSteps,
    input: request.input === '' ? '' : await own.copyIn(request.input),
    outputFolder: own.output,
  });
}
