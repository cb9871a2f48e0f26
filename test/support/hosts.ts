import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';

/** Network namespaces are named after the process that made them, so that the next run finds those of a killed one. */
const PREFIX = 'sheetmill-';
const run = `${PREFIX}${process.pid}`;
/** The interface of this process's own network. Its name has 15 characters at most. */
const LINK = `mill${process.pid}`;
/** From the range that is set aside for tests of networks. */
const SUBNET = `198.18.${process.pid % 256}`;

const ip = (command: string) => execFileSync('ip', command.split(' '), { encoding: 'utf8', stdio: 'pipe' });

/** True if this process can create network namespaces (root, iproute2, not denied by a container). */
export function canMakeHosts(): boolean {
  if (process.getuid?.() !== 0 || spawnSync('setpriv', ['--version']).status !== 0) return false;
  try {
    makeHosts(['probe']).remove();
    return true;
  } catch {
    return false;
  }
}

/**
 * Hosts that share this machine, each with a separate address on one switch. This process is connected to the switch.
 * `cut` takes down the switch's end of a host's cable, so that what it sends is lost without a word.
 */
export function makeHosts<Name extends string>(names: Name[]) {
  removeAbandoned();
  const hub = `${run}-switch`;
  try {
    ip(`netns add ${hub}`);
    ip(`-n ${hub} link add switch type bridge`);
    ip(`-n ${hub} link set switch up`);
    ip(`link add ${LINK} type veth peer name test netns ${hub}`);
    ip(`-n ${hub} link set test master switch up`);
    ip(`addr add ${SUBNET}.1/24 dev ${LINK}`);
    ip(`link set ${LINK} up`);
    for (const name of names) {
      const host = `${run}-${name}`;
      ip(`netns add ${host}`);
      ip(`link add eth0 netns ${host} type veth peer name ${name} netns ${hub}`);
      ip(`-n ${hub} link set dev ${name} master switch up`);
      ip(`-n ${host} addr add ${addressOf(name)}/24 dev eth0`);
      ip(`-n ${host} link set eth0 up`);
      ip(`-n ${host} link set lo up`);
    }
  } catch (error) {
    removeOwn();
    throw error;
  }

  function addressOf(name: Name): string {
    return `${SUBNET}.${names.indexOf(name) + 10}`;
  }

  return {
    addressOf,
    /** The prefix of a command that runs on this host. */
    enter: (name: Name) => ['ip', 'netns', 'exec', `${run}-${name}`],
    cut: (name: Name) => void ip(`-n ${hub} link set dev ${name} down`),
    heal: (name: Name) => void ip(`-n ${hub} link set dev ${name} up`),
    remove: removeOwn,
  };
}

/** Removes the hosts of this process, and with them their cables. */
function removeOwn(): void {
  // At once: it would go a moment after the network at its other end.
  spawnSync('ip', ['link', 'del', LINK]);
  for (const { name, pid } of namespaces()) if (pid === process.pid) ip(`netns del ${name}`);
}

/** Removes the hosts of processes that ended. Other processes may remove them at the same time. */
function removeAbandoned(): void {
  for (const { name, pid } of namespaces()) if (!existsSync(`/proc/${pid}`)) spawnSync('ip', ['netns', 'del', name]);
}

function namespaces(): { name: string; pid: number }[] {
  const names = ip('netns list').matchAll(new RegExp(`^${PREFIX}(\\d+)-\\S+`, 'gm'));
  return [...names].map(([name, pid]) => ({ name, pid: Number(pid) }));
}
