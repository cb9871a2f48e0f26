import { z } from 'zod';
import { type ConversionContext, PDF_ENGINES, type Step } from '../../../conversion/conversion-task.ts';
import { convert } from '../../../conversion/tasks/convert.ts';
import { conversions } from '../../../converter/render/conversions.ts';
import { openPdf } from '../../../converter/render/engines/fallback.ts';

const payload = z.object({
  /** The engines that crash as soon as they open the file. */
  engines: z.array(z.enum(PDF_ENGINES)),
  /** An unhandled exception or rejection, or a crash of native code. */
  by: z.enum(['exception', 'rejection', 'signal']),
});

const CRASHES = {
  exception: () => void setImmediate(fail),
  rejection: () => void Promise.reject(new Error('crash for the test')),
  signal: () => void process.kill(process.pid, 'SIGSEGV'),
};

function fail(): never {
  throw new Error('crash for the test');
}

/** A conversion that opens its PDF with crashing engines, and reports its pages as failed. */
convert.payload = convert.payload.extend(payload.shape) as never;
conversions.convert = async (given) => {
  const context = given as unknown as ConversionContext<z.output<typeof payload>>;
  const step = (taken: Step) => {
    context.step(taken);
    if (context.payload.engines.some((engine) => engine === taken.engine)) CRASHES[context.payload.by]();
  };
  const document = await openPdf({ ...context, step });
  const { pageCount } = document;
  await document.close();
  context.inspected({ pageCount, selected: [[1, pageCount]] });
  for (let page = 1; page <= pageCount; page++)
    context.page({ page, status: 'failed', error: { code: 'corrupt_file', message: 'not drawn' } });
  return { pageCount };
};

export default [];
