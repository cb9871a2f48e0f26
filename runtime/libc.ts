import type { Logger } from './log.ts';

/** System calls of Linux that Node lacks. Only this module loads koffi. */

const PR_SET_DUMPABLE = 4;

export interface Libc {
  /**
   * Makes a system call on this thread and returns its result. Buffers are passed by address, strings as C strings,
   * lists as the address of 64-bit words. Throws an error with a `code` such as `EPERM`.
   */
  syscall(number: number, ...args: SyscallArgument[]): number;
}

type Word = bigint | string | Buffer;
export type SyscallArgument = number | Word | readonly Word[];

/** Null on systems other than Linux, and without a build of koffi for this one. */
export async function openLibc(): Promise<Libc | null> {
  if (process.platform !== 'linux') return null;
  const koffi = await import('koffi').then(
    (module) => module.default,
    () => null,
  );
  if (koffi === null) return null;
  const call = koffi.load(null).func('int64 syscall(int64, intptr, intptr, intptr, intptr, intptr, intptr)');
  const names = new Map(Object.entries(koffi.os.errno).map(([name, value]) => [value, name]));
  return {
    syscall(number, ...args) {
      // References keep the garbage collector from freeing the memory during the call.
      const kept: Buffer[] = [];
      const addressOf = (buffer: Buffer) => {
        kept.push(buffer);
        return koffi.address(buffer);
      };
      const wordOf = (word: Word) => {
        if (typeof word === 'bigint') return word;
        return addressOf(typeof word === 'string' ? Buffer.from(`${word}\0`) : word);
      };
      const words = args.map((arg) => {
        if (typeof arg === 'number') return arg;
        if (typeof arg !== 'object' || Buffer.isBuffer(arg)) return wordOf(arg);
        return addressOf(Buffer.from(BigUint64Array.from(arg, wordOf).buffer));
      });
      const result = Number(call(number, ...Array.from({ length: 6 }, (_, index) => words[index] ?? 0)));
      kept.length = 0;
      if (result !== -1) return result;
      const code = names.get(koffi.errno()) ?? String(koffi.errno());
      throw Object.assign(new Error(`system call ${number} failed: ${code}`), { code });
    },
  };
}

/** The number of a system call on this processor architecture; null on an unsupported one. */
export function forThisCpu<T>(x64: T, arm64: T): T | null {
  return process.arch === 'x64' ? x64 : process.arch === 'arm64' ? arm64 : null;
}

/**
 * Hides the memory and the environment of this process, which hold secrets, from other processes of the same user and from
 * debuggers. Returns false on systems without this protection.
 */
export async function hideProcessMemory(log?: Pick<Logger, 'warn'>): Promise<boolean> {
  const prctl = forThisCpu(157, 167);
  const libc = prctl === null ? null : await openLibc();
  if (libc === null || prctl === null) {
    log?.warn('the memory of this process is readable by other processes of the same user');
    return false;
  }
  libc.syscall(prctl, PR_SET_DUMPABLE, 0);
  return true;
}
