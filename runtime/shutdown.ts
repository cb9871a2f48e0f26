import closeWithGrace from 'close-with-grace';

/**
 * Runs `close` once, at the first signal to stop or error that nobody caught, and then ends the process: with code 0
 * after a signal, 1 after an error or when `close` takes longer than `delayMs`.
 */
export function onShutdown(delayMs: number, close: (reason: { err?: Error }) => Promise<void>): void {
  // npm passes on the signal of a Ctrl-C that the terminal has sent to us already: the second must not cut `close` short.
  const grace = closeWithGrace({ delay: delayMs, logger: false, skip: ['SIGINT', 'SIGTERM'] }, close);
  let asked = false;
  const shutDown = () => {
    if (!asked) void grace.close();
    asked = true;
  };
  process.on('SIGINT', shutDown);
  process.on('SIGTERM', shutDown);
}
