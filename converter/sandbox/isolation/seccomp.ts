import { constants } from 'node:os';
import { forThisCpu } from '../../../runtime/libc.ts';
import type { Kernel } from './kernel.ts';
import { type SyscallName, syscallNumber } from './syscalls.ts';

/**
 * The filter of system calls: a classic BPF program, which the kernel runs for each call of the sandbox and its child
 * processes. Rendering, files in the private folder and child processes need none of the denied calls.
 */

const SET_MODE_FILTER = 1;
const RETURN_ALLOW = 0x7fff0000;
const RETURN_ERRNO = 0x00050000;
const RETURN_KILL_PROCESS = 0x80000000;

// BPF: load a word of the call, compare, return.
const LOAD = 0x20;
const AND = 0x54;
const JUMP_IF_EQUAL = 0x15;
const JUMP_IF_ABOVE = 0x25;
const JUMP_IF_ANY_BIT = 0x45;
const RETURN = 0x06;
const NUMBER_AT = 0;
const ARCHITECTURE_AT = 4;
const argumentAt = (index: number) => 16 + 8 * index;

const { EPERM, ENOSYS } = constants.errno;
/** The last call that this filter knows (`mseal`). Later calls fail, as on an older kernel. */
const LAST_KNOWN = 462;

const CLONE_NEW_ANYTHING = 0x7e020080;
const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_TYPE_MASK = 0xf;
/** F_SETOWN, F_SETSIG and F_SETOWN_EX make the kernel send signals to others. */
const DENIED_FCNTL = [8, 10, 15];
/** TIOCSTI and TIOCLINUX type into a terminal; FIOSETOWN and SIOCSPGRP make the kernel send signals. */
const DENIED_IOCTL = [0x5412, 0x541c, 0x8901, 0x8902];
/** The converter relies on PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_MM and PR_SET_CHILD_SUBREAPER. */
const DENIED_PRCTL = [1, 4, 35, 36];

const DENIED: SyscallName[] = [
  // The network, and sockets of the machine.
  ...(['socket', 'connect', 'bind', 'listen', 'accept', 'accept4'] as const),
  // Other processes.
  ...(['ptrace', 'process_vm_readv', 'process_vm_writev', 'process_madvise', 'process_mrelease', 'kcmp'] as const),
  ...(['pidfd_open', 'pidfd_getfd', 'pidfd_send_signal', 'tkill', 'rt_sigqueueinfo', 'rt_tgsigqueueinfo'] as const),
  ...(['setpriority', 'ioprio_set', 'sched_setaffinity', 'sched_setattr', 'sched_setparam'] as const),
  ...(['sched_setscheduler', 'move_pages', 'migrate_pages', 'setrlimit'] as const),
  // Namespaces and mounts.
  ...(['mount', 'umount2', 'pivot_root', 'chroot', 'open_tree', 'move_mount', 'mount_setattr', 'fsopen'] as const),
  ...(['fsconfig', 'fsmount', 'fspick', 'unshare', 'setns', 'sethostname', 'setdomainname'] as const),
  ...(['open_by_handle_at', 'name_to_handle_at'] as const),
  // Memory that does not count as memory of a process.
  ...(['memfd_secret', 'shmget', 'shmat', 'shmctl', 'semget', 'semop', 'semtimedop', 'semctl'] as const),
  ...(['msgget', 'msgsnd', 'msgrcv', 'msgctl', 'mq_open', 'mq_unlink'] as const),
  // Rarely used parts of the kernel, with which many attacks begin.
  ...(['add_key', 'request_key', 'keyctl', 'bpf', 'perf_event_open', 'userfaultfd', 'fanotify_init'] as const),
  ...(['io_uring_setup', 'io_uring_enter', 'io_uring_register', 'personality', 'modify_ldt', 'uselib'] as const),
  ...(['lookup_dcookie', 'kexec_load', 'kexec_file_load', 'init_module', 'finit_module', 'delete_module'] as const),
  ...(['reboot', 'swapon', 'swapoff', 'quotactl', 'quotactl_fd', 'acct', 'syslog', 'vhangup', 'iopl'] as const),
  ...(['ioperm', 'settimeofday', 'clock_settime', 'clock_adjtime', 'adjtimex'] as const),
];

/** On ENOSYS, callers fall back to `clone` and to files, as on an older kernel. */
const UNKNOWN: SyscallName[] = ['clone3', 'memfd_create'];

/**
 * Landlock does not restrict these, and the files of the service may belong to the user of the sandbox. They succeed without
 * effect, so that copying a file works.
 */
const WITHOUT_EFFECT: SyscallName[] = [
  ...(['chmod', 'fchmod', 'fchmodat', 'fchmodat2', 'chown', 'fchown', 'lchown', 'fchownat', 'utime'] as const),
  ...(['utimes', 'futimesat', 'utimensat', 'setxattr', 'lsetxattr', 'fsetxattr', 'removexattr'] as const),
  ...(['lremovexattr', 'fremovexattr'] as const),
];

export interface FilterOptions {
  /** The sandbox sees files of the service, which may belong to its user. */
  seesOtherFiles: boolean;
  /** The only process that may be signalled; null where no other is visible. */
  onlySignal: number | null;
}

type Instruction = [code: number, ifTrue: number, ifFalse: number, value: number];

/** Filters the calls of this thread, which must have `no_new_privs`, and of the programs that it executes. */
export function filterSystemCalls(kernel: Kernel, options: FilterOptions): void {
  const instructions = filterProgram(options);
  const program = Buffer.alloc(instructions.length * 8);
  for (const [index, [code, ifTrue, ifFalse, value]] of instructions.entries()) {
    program.writeUInt16LE(code, index * 8);
    program.writeUInt8(ifTrue, index * 8 + 2);
    program.writeUInt8(ifFalse, index * 8 + 3);
    program.writeUInt32LE(value, index * 8 + 4);
  }
  kernel('seccomp', SET_MODE_FILTER, 0, [BigInt(instructions.length), program]);
}

function filterProgram({ seesOtherFiles, onlySignal }: FilterOptions): Instruction[] {
  return [
    [LOAD, 0, 0, ARCHITECTURE_AT],
    [JUMP_IF_EQUAL, 1, 0, forThisCpu(0xc000003e, 0xc00000b7) ?? 0],
    [RETURN, 0, 0, RETURN_KILL_PROCESS],
    [LOAD, 0, 0, NUMBER_AT],
    [JUMP_IF_ABOVE, 0, 1, LAST_KNOWN],
    fail(ENOSYS),
    ...DENIED.flatMap((name) => always(name, EPERM)),
    ...UNKNOWN.flatMap((name) => always(name, ENOSYS)),
    ...(seesOtherFiles ? WITHOUT_EFFECT.flatMap((name) => always(name, 0)) : []),
    ...on('clone', [[LOAD, 0, 0, argumentAt(0)], [JUMP_IF_ANY_BIT, 0, 1, CLONE_NEW_ANYTHING], fail(EPERM)]),
    // Other types than streams could send to any address.
    ...on('socketpair', [
      ...only(argumentAt(0), AF_UNIX),
      [LOAD, 0, 0, argumentAt(1)],
      [AND, 0, 0, SOCK_TYPE_MASK],
      [JUMP_IF_EQUAL, 1, 0, SOCK_STREAM],
      fail(EPERM),
    ]),
    ...on('sendto', isNull(4)),
    // A process may read its limits, not set them, and not read those of others.
    ...on('prlimit64', [...only(argumentAt(0), 0), ...isNull(2)]),
    ...on('fcntl', without(argumentAt(1), DENIED_FCNTL)),
    ...on('ioctl', without(argumentAt(1), DENIED_IOCTL)),
    ...on('prctl', without(argumentAt(0), DENIED_PRCTL)),
    ...(onlySignal === null
      ? []
      : [...on('kill', only(argumentAt(0), onlySignal)), ...on('tgkill', only(argumentAt(0), onlySignal))]),
    [RETURN, 0, 0, RETURN_ALLOW],
  ];
}

function fail(errno: number): Instruction {
  return [RETURN, 0, 0, RETURN_ERRNO | errno];
}

function always(name: SyscallName, errno: number): Instruction[] {
  const number = syscallNumber(name);
  return number === null ? [] : [[JUMP_IF_EQUAL, 0, 1, number], fail(errno)];
}

/** Checks the arguments of one call: the block denies the call, or passes to its end. */
function on(name: SyscallName, block: Instruction[]): Instruction[] {
  const number = syscallNumber(name);
  if (number === null) return [];
  return [[JUMP_IF_EQUAL, 0, block.length + 1, number], ...block, [RETURN, 0, 0, RETURN_ALLOW]];
}

function only(at: number, value: number): Instruction[] {
  return [[LOAD, 0, 0, at], [JUMP_IF_EQUAL, 1, 0, value], fail(EPERM)];
}

function isNull(argument: number): Instruction[] {
  return [...only(argumentAt(argument), 0), ...only(argumentAt(argument) + 4, 0)];
}

function without(at: number, values: number[]): Instruction[] {
  return [[LOAD, 0, 0, at], ...values.flatMap((value): Instruction[] => [[JUMP_IF_EQUAL, 0, 1, value], fail(EPERM)])];
}
