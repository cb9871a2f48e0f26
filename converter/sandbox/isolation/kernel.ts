import { errorCode } from '../../../runtime/errors.ts';
import { type Libc, openLibc, type SyscallArgument } from '../../../runtime/libc.ts';
import { type SyscallName, syscallNumber } from './syscalls.ts';

/** Makes system calls by name. */
export type Kernel = (name: SyscallName, ...args: SyscallArgument[]) => number;

/** Null on operating systems and processors without support. */
export async function openKernel(): Promise<Kernel | null> {
  const libc: Libc | null = syscallNumber('execve') === null ? null : await openLibc();
  if (libc === null) return null;
  return (name, ...args) => {
    const number = syscallNumber(name);
    if (number === null) throw Object.assign(new Error(`${name} does not exist here`), { code: 'ENOSYS' });
    try {
      return libc.syscall(number, ...args);
    } catch (cause) {
      const code = errorCode(cause);
      throw Object.assign(new Error(`${name} failed: ${code}`, { cause }), { code });
    }
  };
}

/** Makes a call that may fail with one of these codes. Returns whether it succeeded. */
export function ignoreErrors(call: () => void, ...codes: string[]): boolean {
  try {
    call();
    return true;
  } catch (error) {
    if (!codes.includes(errorCode(error) ?? '')) throw error;
    return false;
  }
}
