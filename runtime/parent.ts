/**
 * For a part that `npm start` has started: it ends with its parent, as the embedded Postgres does, and answers the parent's
 * checks while its event loop turns. Does nothing for a process that was started alone.
 */
export function followParent(): void {
  process.on('disconnect', () => process.exit(1));
  process.on('message', (message) => {
    if (typeof message !== 'object' || message === null || !('kind' in message) || message.kind !== 'check') return;
    process.send?.({ kind: 'alive' }, () => undefined);
  });
}
