import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { z } from 'zod';
import { openKernel } from '../../converter/sandbox/isolation/kernel.ts';
import { defineTask } from '../../jobs/task.ts';

/**
 * A sandbox that an attacker has taken over: it tries to reach everything. A module for `TASKS`. The attempts harm nothing
 * but the files that the payload names, so they may succeed.
 */

const resources = { cpuUnits: 1, memoryMb: 256 };
const AF_UNIX = 1;
const AF_INET = 2;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const PTRACE_ATTACH = 16;
const CLONE_NEWUSER = 0x10000000;
const CLONE_THREAD = 0x10000;
const IPC_CREAT = 0o1000;
const IPC_RMID = 0;

const targets = z.strictObject({
  secret: z.string(),
  /** Processes of the service. */
  pids: z.array(z.int()),
  ports: z.array(z.int()),
  socket: z.string(),
  abstract: z.string(),
  /** It tries to change these files. */
  files: z.array(z.string()),
  /** It tries to read these. */
  readable: z.array(z.string()),
  folders: z.array(z.string()),
});
export type Targets = z.output<typeof targets>;

type Attempt = () => unknown;

/** Returns the names of the attempts that succeeded. */
const hostile = defineTask({
  type: 'hostile',
  payload: targets,
  resources,
  async run({ payload }) {
    const attempts = {
      ...filesOf(payload),
      ...processesOf(payload),
      ...networkOf(payload),
      ...(await kernelOf(payload)),
    };
    const reached: string[] = [];
    const refused: Record<string, string> = {};
    for (const [name, attempt] of Object.entries(attempts)) {
      try {
        const result = await attempt();
        if (result === false) refused[name] = 'no';
        else reached.push(name);
      } catch (error) {
        refused[name] = String((error as NodeJS.ErrnoException).code ?? error);
      }
    }
    return { reached, refused, uid: process.getuid?.() };
  },
});

function filesOf({ files, readable, folders, secret }: Targets): Record<string, Attempt> {
  const attempts: Record<string, Attempt> = {};
  for (const file of [...readable, ...files]) attempts[`read ${file}`] = () => fs.readFileSync(file);
  for (const file of files) {
    attempts[`write ${file}`] = () => fs.writeFileSync(file, 'x', { flag: 'r+' });
    attempts[`truncate ${file}`] = () => fs.truncateSync(file, 0);
    attempts[`change the mode of ${file}`] = () => changes(file, () => fs.chmodSync(file, 0o606));
    attempts[`change the time of ${file}`] = () => changes(file, () => fs.utimesSync(file, 1, 1));
    attempts[`link ${file}`] = () => fs.linkSync(file, 'link');
    attempts[`symlink ${file}`] = () => fs.symlinkSync(file, 'symlink');
  }
  for (const folder of folders) {
    attempts[`list ${folder}`] = () => fs.readdirSync(folder);
    attempts[`write into ${folder}`] = () => {
      const file = path.join(folder, `hostile-${process.pid}`);
      fs.writeFileSync(file, 'x');
      fs.rmSync(file);
    };
  }
  const roots = ['/proc/1/root', '/proc/1/cwd', `/proc/${process.ppid}/root`];
  for (const root of roots) attempts[`list ${root}`] = () => fs.readdirSync(root);
  attempts['find the secret in /proc'] = () =>
    fs
      .readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .some((pid) => ['environ', 'cmdline'].some((file) => readOr(`/proc/${pid}/${file}`).includes(secret)));
  attempts['execute a file that it wrote'] = () => {
    fs.copyFileSync('/usr/bin/true', 'true');
    fs.chmodSync('true', 0o700);
    return once(spawn(path.resolve('true'), { stdio: 'ignore' }), 'exit');
  };
  return attempts;
}

function changes(file: string, change: () => void): boolean {
  const before = fs.statSync(file);
  change();
  const after = fs.statSync(file);
  return before.mode !== after.mode || before.mtimeMs !== after.mtimeMs;
}

function readOr(file: string): string {
  try {
    return fs.readFileSync(file, 'latin1');
  } catch {
    return '';
  }
}

function processesOf({ pids, secret }: Targets): Record<string, Attempt> {
  const attempts: Record<string, Attempt> = {};
  for (const pid of pids) {
    attempts[`signal ${pid}`] = () => process.kill(pid, 0);
    attempts[`read the environment of ${pid}`] = () =>
      fs.readFileSync(`/proc/${pid}/environ`, 'latin1').includes(secret);
    attempts[`open the memory of ${pid}`] = () => fs.openSync(`/proc/${pid}/mem`, 'r+');
    attempts[`read the memory map of ${pid}`] = () => fs.readFileSync(`/proc/${pid}/maps`);
    attempts[`open a file of ${pid}`] = () => fs.readdirSync(`/proc/${pid}/fd`);
  }
  return attempts;
}

function networkOf({ ports, socket, abstract }: Targets): Record<string, Attempt> {
  const attempts: Record<string, Attempt> = {};
  const connect = (options: net.NetConnectOpts) => async () => {
    const connection = net.connect(options);
    await once(connection, 'connect');
    connection.destroy();
  };
  for (const port of ports) attempts[`connect to port ${port}`] = connect({ port, host: '127.0.0.1' });
  attempts['connect to a socket'] = connect({ path: socket });
  attempts['connect to an abstract socket'] = connect({ path: `\0${abstract}` });
  attempts.listen = async () => {
    const server = net.createServer().listen(0, '0.0.0.0');
    await once(server, 'listening');
    server.close();
  };
  return attempts;
}

async function kernelOf({ pids: [pid = 0] }: Targets): Promise<Record<string, Attempt>> {
  const kernel = await openKernel();
  if (kernel === null) throw new Error('no system calls');
  const buffer = Buffer.alloc(256);
  return {
    'a TCP socket': () => kernel('socket', AF_INET, SOCK_STREAM, 0),
    'a UNIX socket': () => kernel('socket', AF_UNIX, SOCK_DGRAM, 0),
    'a pair of datagram sockets': () => kernel('socketpair', AF_UNIX, SOCK_DGRAM, 0, buffer),
    ptrace: () => kernel('ptrace', PTRACE_ATTACH, pid, 0, 0),
    'the memory of another process': () => kernel('process_vm_readv', pid, [buffer, 8n], 1, [0x400000n, 8n], 1, 0),
    'a signal to a thread': () => kernel('tgkill', pid, pid, 0),
    'a queued signal': () => kernel('rt_sigqueueinfo', pid, 0, buffer),
    pidfd: () => kernel('pidfd_open', pid, 0),
    'the owner of a file descriptor': () => kernel('fcntl', 1, 8, pid),
    'the limits of another process': () => kernel('prlimit64', pid, 7, 0, buffer),
    'higher limits': () => kernel('prlimit64', 0, 2, [-1n, -1n], 0),
    'the priority of another process': () => kernel('setpriority', 0, pid, 1),
    'a user namespace': () => kernel('unshare', CLONE_NEWUSER),
    // The kernel refuses the flags for another reason: nothing is started where the filter lets the call pass.
    'a process in a user namespace': () =>
      isLetThrough(() => kernel('clone', CLONE_NEWUSER | CLONE_THREAD, 0, 0, 0, 0)),
    'a mount': () => kernel('mount', 'tmpfs', fs.mkdtempSync(path.resolve('mount-')), 'tmpfs', 0, ''),
    'another root': () => kernel('chroot', '/'),
    root: () => process.getuid?.() !== 0 && kernel('setresuid', 0, 0, 0),
    memfd: () => kernel('memfd_create', 'x', 0),
    'secret memory': () => kernel('memfd_secret', 0),
    'shared memory': () => kernel('shmctl', kernel('shmget', 0, 4096, IPC_CREAT | 0o600), IPC_RMID, 0),
    'a message queue': () => {
      kernel('mq_open', `hostile-${process.pid}`, 0o102, 0o600, 0);
      kernel('mq_unlink', `hostile-${process.pid}`);
    },
    io_uring: () => kernel('io_uring_setup', 1, buffer),
    userfaultfd: () => kernel('userfaultfd', 1),
    bpf: () => kernel('bpf', 0, Buffer.alloc(72, 1), 72),
    keyring: () => kernel('keyctl', 0, -3, 0),
    perf: () => kernel('perf_event_open', Buffer.alloc(128, 1), 0, -1, -1, 0),
    terminal: () => kernel('ioctl', 1, 0x5412, buffer),
    'a life beyond its converter': () => kernel('prctl', 1, 0),
  };
}

function isLetThrough(call: () => void): boolean {
  try {
    call();
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'EPERM';
  }
}

/** Starts a process in a separate session whose parents have ended, and returns its name in /proc/<pid>/cmdline. */
const daemon = defineTask({
  type: 'daemon',
  payload: z.strictObject({ name: z.string() }),
  resources,
  async run({ payload }) {
    const code = `setsid sh -c 'sh -c "sleep 60; : ${payload.name}" & echo' &`;
    const shell = spawn('sh', ['-c', code], { stdio: ['ignore', 'pipe', 'ignore'] });
    await Promise.all([once(shell.stdout, 'data'), once(shell, 'exit')]);
    return {};
  },
});

/** Fills its folder, with a file that has a name or with one that has none. */
const fill = defineTask({
  type: 'fill',
  payload: z.strictObject({ megabytes: z.int(), unlinked: z.boolean() }),
  resources,
  async run({ payload }) {
    const fd = fs.openSync('filling', 'w');
    if (payload.unlinked) fs.rmSync('filling');
    for (let written = 0; written < payload.megabytes; written++) {
      fs.writeSync(fd, Buffer.alloc(2 ** 20));
      await new Promise(setImmediate);
    }
    await once(process, 'never');
    return {};
  },
});

export default [hostile, daemon, fill];
