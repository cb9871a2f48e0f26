import { mkdirSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { Kernel } from './kernel.ts';
import type { Plan } from './plan.ts';

/**
 * Replaces the file system of this mount namespace by one that has only the paths of the plan: readable files and folders,
 * the private folder, a few devices, and /proc of this PID namespace.
 */

const AT_FDCWD = -100;
const AT_EMPTY_PATH = 0x1000;
const AT_RECURSIVE = 0x8000;
const OPEN_TREE_CLONE = 1;
const OPEN_TREE_CLOEXEC = 0o2000000;
const MOVE_MOUNT_F_EMPTY_PATH = 4;
const MNT_DETACH = 2;

const MS_NOSUID = 2;
const MS_NODEV = 4;
const MS_NOEXEC = 8;
const READ_ONLY = 1n;
const NOSUID = 2n;
const NODEV = 4n;
const NOEXEC = 8n;

/** The size of the file system for mount points and links. */
const ROOT_OPTIONS = 'mode=755,size=1m,nr_inodes=4096';

export function enterPrivateRoot(kernel: Kernel, { folder, readable, devices, moved, links }: Plan): void {
  const trees = [
    ...readable.map((source) => cloneTree(kernel, source, source, READ_ONLY | NOSUID | NODEV)),
    ...moved.map(([source, target]) => cloneTree(kernel, source, target, READ_ONLY | NOSUID | NODEV | NOEXEC)),
    ...devices.map((source) => cloneTree(kernel, source, source, READ_ONLY | NOSUID | NOEXEC)),
    cloneTree(kernel, folder, folder, NOSUID | NODEV | NOEXEC),
  ];
  // The new root needs a folder, and this one exists.
  kernel('mount', 'tmpfs', folder, 'tmpfs', MS_NOSUID | MS_NODEV, ROOT_OPTIONS);
  const inRoot = (place: string) => path.join(folder, place);
  for (const { fd, target, isFolder } of trees) {
    if (isFolder) mkdirSync(inRoot(target), { recursive: true });
    else touch(inRoot(target));
    kernel('move_mount', fd, '', AT_FDCWD, inRoot(target), MOVE_MOUNT_F_EMPTY_PATH);
  }
  for (const [place, target] of links) {
    mkdirSync(path.dirname(inRoot(place)), { recursive: true });
    symlinkSync(target, inRoot(place));
  }
  mkdirSync(inRoot('/proc'), { recursive: true });
  kernel('mount', 'proc', inRoot('/proc'), 'proc', MS_NOSUID | MS_NODEV | MS_NOEXEC);
  for (const place of ['/proc', '/']) kernel('mount_setattr', AT_FDCWD, inRoot(place), 0, attributes(READ_ONLY), 32);
  process.chdir(folder);
  kernel('pivot_root', '.', '.');
  // The old root is mounted over the new one.
  kernel('umount2', '.', MNT_DETACH);
  process.chdir(folder);
}

function cloneTree(kernel: Kernel, source: string, target: string, flags: bigint) {
  const fd = kernel('open_tree', AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
  kernel('mount_setattr', fd, '', AT_EMPTY_PATH | AT_RECURSIVE, attributes(flags), 32);
  return { fd, target, isFolder: statSync(source).isDirectory() };
}

function attributes(flags: bigint): Buffer {
  return Buffer.from(BigUint64Array.from([flags, 0n, 0n, 0n]).buffer);
}

function touch(file: string): void {
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, '', { flag: 'a' });
}
