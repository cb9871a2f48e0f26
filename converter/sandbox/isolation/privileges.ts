import { ignoreErrors, type Kernel } from './kernel.ts';

/** Drops privileges and sets limits. The program that is executed afterwards cannot undo them. */

const PR_SET_PDEATHSIG = 1;
const PR_CAPBSET_DROP = 24;
const PR_SET_SECUREBITS = 28;
const PR_SET_CHILD_SUBREAPER = 36;
const PR_SET_NO_NEW_PRIVS = 38;
const SIGKILL = 9;
const LAST_POSSIBLE_CAPABILITY = 63;
/** User id 0 gives no capabilities, and none can be kept or raised. All bits are locked. */
const SECUREBITS = 0b1110_0011;
const CAPABILITY_VERSION = 0x20080522;

const RLIMIT = { cpu: 0, fileSize: 1, core: 4, processes: 6, openFiles: 7, lockedMemory: 8, queues: 12 };
const GB = 2 ** 30;

/** Longer than any sandbox runs. It ends processes that escaped every other limit. */
const MAX_CPU_SECONDS = 24 * 3600;
const MAX_FILE_BYTES = 8 * GB;
const MAX_OPEN_FILES = 4096;
/** Threads count too. */
const MAX_PROCESSES = 1024;

/** Drops all capabilities, and changes to the user and group `uid` unless it is null. */
export function dropPrivileges(kernel: Kernel, uid: number | null): void {
  for (let capability = 0; capability <= LAST_POSSIBLE_CAPABILITY; capability++) {
    ignoreErrors(() => kernel('prctl', PR_CAPBSET_DROP, capability), 'EPERM', 'EINVAL');
  }
  ignoreErrors(() => kernel('prctl', PR_SET_SECUREBITS, SECUREBITS), 'EPERM');
  if (uid !== null) {
    kernel('setgroups', 0, 0);
    kernel('setresgid', uid, uid, uid);
    kernel('setresuid', uid, uid, uid);
  }
  const header = Buffer.alloc(8);
  header.writeUInt32LE(CAPABILITY_VERSION);
  kernel('capset', header, Buffer.alloc(24));
  kernel('prctl', PR_SET_NO_NEW_PRIVS, 1);
}

/** The process limit counts all processes of a user, so it requires a separate user. */
export function setLimits(kernel: Kernel, { hasSeparateUser }: { hasSeparateUser: boolean }): void {
  const limits: [number, number][] = [
    [RLIMIT.cpu, MAX_CPU_SECONDS],
    [RLIMIT.fileSize, MAX_FILE_BYTES],
    [RLIMIT.core, 0],
    [RLIMIT.openFiles, MAX_OPEN_FILES],
    [RLIMIT.lockedMemory, 0],
    [RLIMIT.queues, 0],
  ];
  if (hasSeparateUser) limits.push([RLIMIT.processes, MAX_PROCESSES]);
  for (const [resource, limit] of limits) lowerLimit(kernel, resource, BigInt(limit));
}

/** A lower limit stays: raising it would require a privilege. */
function lowerLimit(kernel: Kernel, resource: number, limit: bigint): void {
  const current = Buffer.alloc(16);
  kernel('prlimit64', 0, resource, 0, current);
  const hard = current.readBigUInt64LE(8);
  const value = hard < limit ? hard : limit;
  kernel('prlimit64', 0, resource, Buffer.from(BigUint64Array.from([value, value]).buffer), 0);
}

/** The kernel kills this process when its parent ends. */
export function setParentDeathSignal(kernel: Kernel): void {
  kernel('prctl', PR_SET_PDEATHSIG, SIGKILL);
}

/** Orphans among its descendants become children of this process. */
export function adoptOrphans(kernel: Kernel): void {
  kernel('prctl', PR_SET_CHILD_SUBREAPER, 1);
}
