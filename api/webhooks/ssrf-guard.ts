import { lookup } from 'node:dns';
import { BlockList, isIP, type LookupFunction } from 'node:net';
import type { Config } from '../../runtime/config.ts';
import { AppError } from '../../runtime/errors.ts';

/** Addresses that no configuration allows. An IPv4 range includes its IPv4-mapped IPv6 addresses. */
const NEVER = rangesOf([
  '0.0.0.0/8', // this host on this network
  '169.254.0.0/16', // link-local: most clouds' metadata
  '64:ff9b::a9fe:0/112', // the same through NAT64
  '100.100.100.200', // metadata of Alibaba Cloud
  '168.63.129.16', // of Azure
  '192.0.0.192', // of Oracle Cloud
  '224.0.0.0/4', // multicast
  '240.0.0.0/4', // reserved, and broadcast
  '::',
  'fe80::/10', // link-local
  'ff00::/8', // multicast
  'fd00:ec2::/32', // metadata of AWS
  'fd20:ce::254', // of Google Cloud
]);
const LOOPBACK = rangesOf(['127.0.0.0/8', '::1']);

/**
 * Gives the reason why a host, or the address to which it resolves, must not receive webhooks; undefined when it may.
 * Without an address it refuses a host only when no address could make it allowed.
 */
export type Guard = (host: string, address?: string) => string | undefined;

/**
 * Creates the guard of a configuration. Metadata, link-local and multicast addresses are never allowed. If
 * WEBHOOK_ALLOWED_HOSTS is set, only its hosts are. Loopback addresses need a loopback HOST or an entry in that list.
 */
export function createGuard({
  HOST,
  WEBHOOK_ALLOWED_HOSTS: allowed,
}: Pick<Config, 'HOST' | 'WEBHOOK_ALLOWED_HOSTS'>): Guard {
  const ranges = allowed?.filter(isRange) ?? [];
  const allowedRanges = rangesOf(ranges);
  const names = (allowed ?? []).filter((entry) => !isRange(entry)).map((name) => name.toLowerCase());
  const isLocalApi = HOST === 'localhost' || (isIP(HOST) !== 0 && isIn(LOOPBACK, HOST));

  return function refusal(host, address) {
    if (address !== undefined && isIn(NEVER, address)) {
      return `${address} is not allowed: it is a metadata, link-local, multicast or reserved address`;
    }
    const isInRange = address !== undefined && isIn(allowedRanges, address);
    const isNamed = names.some((name) => (name.startsWith('*.') ? host.endsWith(name.slice(1)) : host === name));
    if (allowed !== undefined && !isNamed && !isInRange && (address !== undefined || ranges.length === 0)) {
      return `${host} is not an allowed receiver of webhooks`;
    }
    const isLoopback = address !== undefined && isIn(LOOPBACK, address);
    if (isLoopback && !isLocalApi && !isInRange && !names.includes('localhost')) {
      return `${address} is not allowed: it is a loopback address`;
    }
    return undefined;
  };
}

function isRange(entry: string): boolean {
  const [address = ''] = entry.split('/');
  return isIP(address) !== 0;
}

/** Throws 422 for a `notify_url` whose host can never receive webhooks. A name is resolved and checked when it is sent to. */
export function refuseForbidden(guard: Guard, notifyUrl: string | null | undefined): void {
  if (!notifyUrl) return;
  const host = hostOf(new URL(notifyUrl));
  const refusal = isIP(host) === 0 ? guard(host) : guard(host, host);
  if (refusal !== undefined) throw new AppError('forbidden_url', `notify_url: ${refusal}`, { status: 422 });
}

/** Gives the host of a URL in the form that sockets use: without brackets around IPv6, without a dot at the end of a name. */
export function hostOf({ hostname }: URL): string {
  return hostname.replace(/^\[(.*)\]$/, '$1').replace(/\.$/, '');
}

/** Resolves names for sockets, so that a socket connects to the addresses that the guard has checked. */
export function guardedLookup(guard: Guard): LookupFunction {
  return (hostname, options, callback) =>
    lookup(hostname, { ...options, all: true }, (error, addresses) => {
      if (error) return callback(error, []);
      const refusal = addresses.map(({ address }) => guard(hostname, address)).find((reason) => reason !== undefined);
      const [first] = addresses;
      if (refusal !== undefined || first === undefined) return callback(new Error(refusal ?? 'no address'), []);
      if (options.all) callback(null, addresses);
      else callback(null, first.address, first.family);
    });
}

function rangesOf(entries: string[]): BlockList {
  const ranges = new BlockList();
  for (const entry of entries) {
    const [address = '', bits] = entry.split('/');
    const type = familyOf(address);
    if (bits === undefined) ranges.addAddress(address, type);
    else ranges.addSubnet(address, Number(bits), type);
  }
  return ranges;
}

function isIn(ranges: BlockList, address: string): boolean {
  // A block list refuses addresses with a zone, as in fe80::1%eth0.
  return ranges.check(address.replace(/%.*$/, ''), familyOf(address));
}

function familyOf(address: string): 'ipv4' | 'ipv6' {
  return address.includes(':') ? 'ipv6' : 'ipv4';
}
