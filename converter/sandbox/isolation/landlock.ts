import { closeSync, constants, openSync, statSync } from 'node:fs';
import { ignoreErrors, type Kernel } from './kernel.ts';

/**
 * Landlock: the kernel lets a process and its children access only these files. It restricts a thread and the programs that
 * the thread starts, so the caller executes its program afterwards.
 */

const CREATE_RULESET_VERSION = 1;
const RULE_PATH_BENEATH = 1;
const O_PATH = 0o10000000;

const EXECUTE = 1n << 0n;
const WRITE_FILE = 1n << 1n;
const READ_FILE = 1n << 2n;
const READ_DIR = 1n << 3n;
const REMOVE_DIR = 1n << 4n;
const REMOVE_FILE = 1n << 5n;
const MAKE_DIR = 1n << 7n;
const MAKE_REG = 1n << 8n;
/** All rights of the first version. */
const FIRST_RIGHTS = (1n << 13n) - 1n;
const REFER = 1n << 13n;
const TRUNCATE = 1n << 14n;
const IOCTL_DEV = 1n << 15n;
const OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;

const READ = EXECUTE | READ_FILE | READ_DIR;
const USE_DEVICE = READ_FILE | WRITE_FILE;
/** Only regular files and folders: no links, sockets and devices, and no execution. */
const OWN = READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | REFER;

const BIND_AND_CONNECT_TCP = 0b11n;
const ABSTRACT_SOCKETS_AND_SIGNALS = 0b11n;

/** From this version on, Landlock restricts signals and abstract sockets to the sandbox. */
export const SCOPES_SIGNALS = 6;

/** The version of Landlock; 0 without it. */
export function landlockVersion(kernel: Kernel): number {
  let version = 0;
  ignoreErrors(
    () => {
      version = kernel('landlock_create_ruleset', 0, 0, CREATE_RULESET_VERSION);
    },
    'ENOSYS',
    'EOPNOTSUPP',
    'EPERM',
  );
  return version;
}

/** Restricts this thread, which must have `no_new_privs`. Paths that do not exist are skipped. */
export function restrictFiles(
  kernel: Kernel,
  version: number,
  { readable, devices, writable }: { readable: string[]; devices: string[]; writable: string[] },
): void {
  const rights =
    FIRST_RIGHTS | (version >= 2 ? REFER : 0n) | (version >= 3 ? TRUNCATE : 0n) | (version >= 5 ? IOCTL_DEV : 0n);
  const network = version >= 4 ? BIND_AND_CONNECT_TCP : 0n;
  const scoped = version >= SCOPES_SIGNALS ? ABSTRACT_SOCKETS_AND_SIGNALS : 0n;
  const attributes = words(rights, network, scoped).subarray(0, version >= SCOPES_SIGNALS ? 24 : version >= 4 ? 16 : 8);
  const ruleset = kernel('landlock_create_ruleset', attributes, attributes.length, 0);
  const allow = (paths: string[], allowed: bigint) => {
    for (const path of paths) allowBelow(kernel, ruleset, path, allowed & rights);
  };
  allow(readable, READ);
  allow(devices, USE_DEVICE);
  allow(writable, OWN);
  kernel('landlock_restrict_self', ruleset, 0);
  closeSync(ruleset);
}

function allowBelow(kernel: Kernel, ruleset: number, path: string, allowed: bigint): void {
  const stats = statSync(path, { throwIfNoEntry: false });
  if (stats === undefined) return;
  const fd = openSync(path, O_PATH | constants.O_NOFOLLOW);
  const rule = Buffer.alloc(12);
  rule.writeBigUInt64LE(stats.isDirectory() ? allowed : allowed & OF_FILES);
  rule.writeInt32LE(fd, 8);
  kernel('landlock_add_rule', ruleset, RULE_PATH_BENEATH, rule, 0);
  closeSync(fd);
}

function words(...values: bigint[]): Buffer {
  return Buffer.from(BigUint64Array.from(values).buffer);
}
