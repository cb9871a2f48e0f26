import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { cpuSeconds } from '../../../converter/sandbox/cpu.ts';
import { until } from '../../support/service.ts';

const onLinux = existsSync('/proc/self/stat') ? test : test.skip;

onLinux('the processor time of a busy process grows, and is null after its exit', async () => {
  const child = spawn(process.execPath, ['-e', 'for (;;) ;']);
  const pid = child.pid ?? 0;
  const before = cpuSeconds(pid) ?? Infinity;
  await until(async () => (cpuSeconds(pid) ?? 0) >= before + 0.1);
  child.kill('SIGKILL');
  await once(child, 'exit');
  expect(cpuSeconds(pid)).toBeNull();
});
