import { z } from 'zod';
import { openPdf } from '../../../converter/render/engines/fallback.ts';
import { type ConversionContext, defineTask, PDF_ENGINES, type Step } from '../../../tasks/task.ts';

const payload = z.strictObject({
  /** The engines that crash as soon as they open the file. */
  engines: z.array(z.enum(PDF_ENGINES)),
  /** An exception or a rejection that nobody handles, or a fault in native code. */
  by: z.enum(['exception', 'rejection', 'signal']),
});

const CRASHES = {
  exception: () => void setImmediate(fail),
  rejection: () => void Promise.reject(new Error('of the test')),
  signal: () => void process.kill(process.pid, 'SIGSEGV'),
};

function fail(): never {
  throw new Error('of the test');
}

/** Opens a PDF with engines of which some crash. */
const open = defineTask({
  type: 'open',
  payload,
  resources: { cpuUnits: 1, memoryMb: 256 },
  internal: true,
  async run(given) {
    const context = given as ConversionContext<z.output<typeof payload>>;
    const step = (taken: Step) => {
      context.step(taken);
      if (context.payload.engines.some((engine) => engine === taken.engine)) CRASHES[context.payload.by]();
    };
    const document = await openPdf({ ...context, step });
    const { pageCount } = document;
    await document.close();
    return { pageCount };
  },
});

export default [open];
