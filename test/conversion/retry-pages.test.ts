import { partsToRetry } from '../../conversion/retry-pages.ts';
import type { Job } from '../../jobs/job.ts';

function jobLike(job: Partial<Job>): Job {
  return { cpuUnits: 1, memoryMb: 256, timeoutSeconds: 300, status: 'completed', ...job } as Job;
}

test('a part keeps the engine of its job, and not its page selection', () => {
  const job = jobLike({ payload: { engine: 'pdfium', page_selection: '1-3' } });
  expect(partsToRetry([1, 2], job, [])).toEqual([
    {
      type: 'convert_range',
      payload: { engine: 'pdfium', pages: [[1, 2]] },
      shape: { cpuUnits: 1, memoryMb: 256 },
      timeoutSeconds: 300,
    },
  ]);
});

test('a part has the resources of the last child that converted its pages', () => {
  const job = jobLike({ payload: {} });
  const first = jobLike({ payload: { pages: [[1, 4]] }, memoryMb: 256 });
  const second = jobLike({ payload: { pages: [[3, 4]] }, memoryMb: 512 });
  expect(partsToRetry([1, 3, 9], job, [first, second])).toMatchObject([
    { payload: { pages: [[1, 1]] }, shape: { memoryMb: 256 } },
    { payload: { pages: [[3, 3]] }, shape: { memoryMb: 512 } },
    { payload: { pages: [[9, 9]] }, shape: { memoryMb: 256 } },
  ]);
});

test('a job or child that runs again needs no part for its pages', () => {
  const failed = jobLike({ payload: {}, status: 'failed' });
  expect(partsToRetry([1], failed, [])).toEqual([]);
  const child = jobLike({ payload: { pages: [[1, 1]] }, status: 'failed' });
  expect(partsToRetry([1], failed, [child])).toEqual([]);
});
