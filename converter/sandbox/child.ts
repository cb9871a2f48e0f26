import path from 'node:path';
import { AppError, publicError } from '../../errors.ts';
import { TASKS } from '../../tasks/registry.ts';
import type { SandboxMessage, SandboxRequest } from './protocol.ts';

/** The process in which untrusted bytes are decoded: one task at a time, no database, no network. */

process.on('disconnect', () => process.exit());
// These may reach the whole process group; the converter decides when its sandboxes end.
process.on('SIGINT', () => undefined);
process.on('SIGTERM', () => undefined);

process.on('message', async (request: SandboxRequest) => {
  const { type, outputRoot, ...given } = request;
  try {
    const task = TASKS.get(type);
    if (task === undefined) throw new AppError('internal', `there is no task of type ${type}`);
    const value = await task.run({
      ...given,
      payload: task.payload.parse(given.payload),
      output: (storePath) => path.join(outputRoot, storePath),
      inspected: (found) => send({ kind: 'inspected', found }),
      page: (outcome) => send({ kind: 'page', outcome }),
    });
    send({ kind: 'returned', value });
  } catch (error) {
    const retryable = error instanceof AppError ? error.retryable : true;
    const cause = error instanceof Error && error.cause !== undefined ? `; cause: ${error.cause}` : '';
    const detail = `${error instanceof Error ? error.stack : error}${cause}`;
    send({ kind: 'threw', error: publicError(error), retryable, detail });
  }
  // V8 does not see how large the pixel buffers are that wait to be collected: 20 MB were left of each image. A major
  // collection would also throw away compiled code, which made the next pages 10% slower.
  globalThis.gc?.({ type: 'minor' });
});

function send(message: SandboxMessage): void {
  process.send?.(message);
}

// Slow to load: better now than while the first file waits.
await import('../convert/convert.ts');
send({ kind: 'ready' });
