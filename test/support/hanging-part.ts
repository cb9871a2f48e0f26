import { spawn } from 'node:child_process';
import { followParent } from '../../runtime/parent.ts';

/**
 * A part for the test of `supervise`. It starts a process in a separate session that ignores SIGTERM, as a sandbox may.
 * After SIGUSR2 it never returns to its event loop.
 */
followParent();
process.on('SIGUSR2', () => {
  process.send?.({ kind: 'hanging' });
  for (;;);
});
const child = spawn('sh', ['-c', 'trap "" TERM; echo ready; read line'], {
  detached: true,
  stdio: ['pipe', 'pipe', 'ignore'],
});
process.on('SIGTERM', () => {
  child.once('exit', () => process.exit(0));
  child.kill('SIGKILL');
});
child.stdout.once('data', () => process.send?.({ kind: 'ready', url: `hanging-part:${process.pid}` }));
