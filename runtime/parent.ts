/**
 * Ends a process that `npm start` has started when its parent ends, and answers the parent's liveness checks. Does nothing
 * in a process without such a parent.
 */
export function followParent(): void {
  process.on('disconnect', () => process.exit(1));
  process.on('message', (message) => {
    if (typeof message !== 'object' || message === null || !('kind' in message) || message.kind !== 'check') return;
    process.send?.({ kind: 'alive' }, () => undefined);
  });
}
