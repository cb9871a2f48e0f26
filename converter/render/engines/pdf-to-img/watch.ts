import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { isOutOfMemory } from '../../../../errors.ts';

/** What pdf.js leaves out of a page, by the warning that it prints. */
const OMISSIONS: [RegExp, string][] = [
  [/Unable to decode (inline )?image/, 'an image cannot be decoded'],
  [/(getOperatorList|getContentStream|parseShading|handleTilingType) - ignoring/, 'a part of the page cannot be read'],
];

/** Its WebAssembly decoders abort when memory is refused to them; broken data makes them fail in other words. */
const ABORTED = /Unable to decode .*(Aborted\(|unreachable)|OpenJPEG: .*(memory|allocat)/i;

/**
 * Does `work` and collects what pdf.js left out of the page. pdf.js hides most errors: it prints a warning, or rejects a
 * promise that nobody waits for, which would end the process. Throws where memory was refused, as the page may lack more.
 */
export async function watch<T>(work: () => Promise<T>): Promise<{ result: T; complaints: string[] }> {
  const complaints = new Set<string>();
  let refusal: Error | undefined;
  function note(text: string): void {
    if (isOutOfMemory({ message: text }) || ABORTED.test(text)) refusal ??= new Error(`out of memory: ${text}`);
    for (const [pattern, complaint] of OMISSIONS) if (pattern.test(text)) complaints.add(complaint);
  }
  const onWarning = (message: unknown) => note(Array.isArray(message) ? String(message[0]) : '');
  const onRejection = (reason: unknown) => {
    note(String(reason));
    complaints.add('a part of the page cannot be read');
  };
  subscribe('console.warn', onWarning);
  process.on('unhandledRejection', onRejection);
  try {
    const result = await work();
    await rejectionsReported();
    if (refusal !== undefined) throw refusal;
    return { result, complaints: [...complaints] };
  } catch (error) {
    await rejectionsReported();
    throw refusal ?? error;
  } finally {
    unsubscribe('console.warn', onWarning);
    process.off('unhandledRejection', onRejection);
  }
}

/** Node reports an unhandled rejection when all promises that could run have run. */
function rejectionsReported(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
