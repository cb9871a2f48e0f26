import type { Engine, Part, Step } from '../../conversion/conversion-task.ts';
import { convert } from '../../conversion/tasks/convert.ts';
import { outcomeOf, runOn } from '../../converter/recovery.ts';
import type { TaskRequest } from '../../converter/run-task.ts';
import type { Death, Ran } from '../../converter/sandbox/run.ts';
import type { ClaimedJob } from '../../jobs/claim.ts';
import type { Outcome } from '../../jobs/settle.ts';
import type { Task } from '../../jobs/task.ts';

const conversion = convert as unknown as Task;
const death = (how: Death['how']): Death => ({
  kind: 'died',
  how,
  error: { code: how === 'overdue' ? 'timeout' : 'out_of_memory', message: how },
});
const step = (page: number | null, engine: Engine, last = false): Step => ({ page, engine, last });
/** Processor time of the page at which a run died. */
const SPENT = 4;
const done: Ran = { outcome: { kind: 'completed', result: {} }, step: null, spentSeconds: 0, peakMemoryMb: 200 };
const died = (how: Death['how'], at: Step | null, peakMemoryMb = 300): Ran => ({
  outcome: death(how),
  step: at,
  spentSeconds: SPENT,
  peakMemoryMb,
});

/** Runs with a sandbox that ends like this, one run after the other; gives what came of it, and what was avoided in the end. */
async function runThrough(runs: Ran[], { reserved = 256, mostMb = 1024 } = {}) {
  const left = [...runs];
  const prepare = async () => ({}) as TaskRequest;
  const request = { prepare, avoid: [], reservation: { cpuUnits: 1, memoryMb: reserved } };
  const options = { deadlineMs: 1000, signal: new AbortController().signal, onEvent: () => undefined };
  const ran = await runOn({ run: async () => left.shift() as Ran }, request, options, mostMb);
  return { ran, avoid: request.avoid, left };
}

describe('a run whose sandbox dies', () => {
  test.each(['overdue', 'crashed'] as const)('goes on without the engine whose step was %s', async (how) => {
    const fatal = step(3, 'pdf-to-img');
    const { ran, avoid } = await runThrough([died(how, fatal), done]);
    expect(ran).toEqual({ ...done, peakMemoryMb: 300 });
    expect(avoid).toEqual([{ ...fatal, error: death(how).error }]);
  });

  test('goes on once for each engine of a page, and no more', async () => {
    const fatal = step(3, 'pdfium', true);
    const { ran, left } = await runThrough([died('crashed', fatal), died('crashed', fatal), done]);
    expect(ran.outcome).toEqual(death('crashed'));
    expect(left).toEqual([done]);
  });

  test('ends where more memory may help, and tries another engine where there is no more', async () => {
    const fatal = step(3, 'pdf-to-img');
    expect((await runThrough([died('outgrown', fatal), done])).ran.outcome).toEqual(death('outgrown'));
    const most = { reserved: 1024, mostMb: 1100 };
    expect((await runThrough([died('outgrown', fatal), done], most)).ran.outcome).toEqual(done.outcome);
    const last = step(3, 'pdfium', true);
    expect((await runThrough([died('outgrown', last), done], most)).ran.outcome).toEqual(death('outgrown'));
  });

  test('ends when somebody else killed it, or when it said nothing of what it did', async () => {
    expect((await runThrough([died('killed', step(3, 'pdf-to-img')), done])).ran.outcome).toEqual(death('killed'));
    expect((await runThrough([died('crashed', null), done])).ran.outcome).toEqual(death('crashed'));
  });
});

describe('what the end of a run means for its job', () => {
  const payload = { upload_id: 'u', original: 1, path: 'a.pdf', media_type: 'application/pdf', dpi: 200 };
  const job = { type: 'convert', payload, cpuUnits: 1, memoryMb: 256 } as unknown as ClaimedJob;
  const meaning = (ran: Ran, left: number[], task: Task | undefined = conversion): Outcome =>
    outcomeOf(ran, job, task, left);
  const part = (pages: [number, number][], memoryMb: number, spent = 0) => ({
    type: 'convert_range',
    payload: { ...payload, engine: null, pages, spent_seconds: spent },
    shape: { cpuUnits: 1, memoryMb },
  });

  test('a page that met the cap goes on alone with more memory, the rest without it', () => {
    expect(meaning(died('outgrown', step(2, 'pdfium', true)), [2, 3, 4, 7])).toEqual({
      kind: 'split',
      error: death('outgrown').error,
      children: [
        part(
          [
            [3, 4],
            [7, 7],
          ],
          256,
        ),
        part([[2, 2]], 384, SPENT),
      ],
    });
  });

  test('a page whose sandbox somebody killed goes on alone with what it had', () => {
    expect(meaning(died('killed', step(2, 'pdf-to-img')), [2, 3])).toMatchObject({
      kind: 'split',
      children: [part([[3, 3]], 256), part([[2, 2]], 256, SPENT)],
    });
  });

  test('alone already, it outgrows its reservation without spending a try, or has failed', () => {
    const { error } = death('outgrown');
    const outgrown = { kind: 'outgrown', error, spent: false, payload: { ...payload, spent_seconds: SPENT } };
    expect(meaning(died('outgrown', step(2, 'pdfium', true)), [2])).toEqual(outgrown);
    expect(meaning(died('outgrown', step(null, 'pdfium', true)), [])).toEqual(outgrown);
    expect(meaning(died('killed', step(2, 'pdf-to-img')), [2])).toMatchObject({ kind: 'failed', retryable: true });
  });

  test('a page that the sandbox names and the job does not have is not converted', () => {
    expect(meaning(died('outgrown', step(9, 'pdfium', true)), [2, 3])).toMatchObject({ kind: 'outgrown' });
  });

  test('the children of a split convert the same original as their parent', () => {
    const parts: Part[] = [
      { pages: [[2, 3]], memoryMb: 512 },
      { pages: [[4, 4]], memoryMb: 1024 },
    ];
    expect(meaning({ ...done, outcome: { kind: 'split', parts } }, [2, 3, 4])).toEqual({
      kind: 'split',
      children: [part([[2, 3]], 512), { ...part([[4, 4]], 1024), shape: { cpuUnits: 0, memoryMb: 1024 } }],
    });
  });

  test("a client's own task spends a try", () => {
    expect(meaning(died('outgrown', null), [], { ...conversion, internal: false })).toMatchObject({
      kind: 'outgrown',
      spent: true,
    });
  });

  test('what is overdue with every engine is never tried again', () => {
    expect(meaning(died('overdue', step(2, 'pdfium', true)), [2])).toMatchObject({ kind: 'failed', retryable: false });
  });
});
