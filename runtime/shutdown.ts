import closeWithGrace from 'close-with-grace';

/**
 * Runs `close` once, at the first stop signal or uncaught error, and then ends the process: with code 0 after a signal, and
 * with code 1 after an error or when `close` takes longer than `delayMs`.
 */
export function onShutdown(delayMs: number, close: (reason: { err?: Error }) => Promise<void>): void {
  // A Ctrl-C arrives twice, from the terminal and from npm. The second signal must not interrupt `close`.
  const grace = closeWithGrace({ delay: delayMs, logger: false, skip: ['SIGINT', 'SIGTERM'] }, close);
  let isClosing = false;
  const shutDown = () => {
    if (!isClosing) void grace.close();
    isClosing = true;
  };
  process.on('SIGINT', shutDown);
  process.on('SIGTERM', shutDown);
}
