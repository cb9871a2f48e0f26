import { lookup } from 'node:dns';
import { BlockList, isIP, type LookupFunction } from 'node:net';
import type { Config } from '../../runtime/config.ts';
import { AppError } from '../../runtime/errors.ts';

/** Hosts to which nothing is ever sent, whatever is allowed. An IPv4 range covers its IPv4-mapped IPv6 addresses, too. */
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
 * Says why nothing may be sent to a host, or to the address that it stands for; undefined when it may. Without an address
 * it says so only of a host that no address could make allowed.
 */
export type Guard = (host: string, address?: string) => string | undefined;

/**
 * The rules of this configuration: metadata services, link-local and multicast addresses never; with
 * WEBHOOK_ALLOWED_HOSTS nothing outside of it; this machine itself only while the API is for this machine alone, or when
 * listed.
 */
export function createGuard({
  HOST,
  WEBHOOK_ALLOWED_HOSTS: allowed,
}: Pick<Config, 'HOST' | 'WEBHOOK_ALLOWED_HOSTS'>): Guard {
  const isRange = (entry: string) => isIP(entry.split('/')[0] as string) !== 0;
  const ranges = allowed?.filter(isRange) ?? [];
  const listedRanges = rangesOf(ranges);
  const names = (allowed ?? []).filter((entry) => !isRange(entry)).map((name) => name.toLowerCase());
  const localApi = HOST === 'localhost' || (isIP(HOST) !== 0 && isIn(LOOPBACK, HOST));

  return function refusal(host, address) {
    if (address !== undefined && isIn(NEVER, address)) return `${address} is no address of a receiver`;
    const inRange = address !== undefined && isIn(listedRanges, address);
    const named = names.some((name) => (name.startsWith('*.') ? host.endsWith(name.slice(1)) : host === name));
    if (allowed !== undefined && !named && !inRange && (address !== undefined || ranges.length === 0))
      return `${host} is not among the WEBHOOK_ALLOWED_HOSTS`;
    if (address !== undefined && isIn(LOOPBACK, address) && !localApi && !inRange && !names.includes('localhost'))
      return `${address} is this machine itself`;
    return undefined;
  };
}

/** Refuses a `notify_url` to whose host nothing would ever be sent: 422. What a name stands for is looked at when it is sent to. */
export function refuseForbidden(guard: Guard, notifyUrl: string | null | undefined): void {
  if (!notifyUrl) return;
  const host = hostOf(new URL(notifyUrl));
  const refusal = isIP(host) === 0 ? guard(host) : guard(host, host);
  if (refusal !== undefined) throw new AppError('forbidden_url', `notify_url: ${refusal}`, { status: 422 });
}

/** The host of a URL as sockets know it: an IPv6 address has no brackets, a name no dot at its end. */
export function hostOf({ hostname }: URL): string {
  return hostname.replace(/^\[(.*)\]$/, '$1').replace(/\.$/, '');
}

/** Resolves names for sockets, so that the addresses that were looked at are those that are connected to. */
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
  // The zone of a link-local address says only through which interface.
  return ranges.check(address.split('%')[0] as string, familyOf(address));
}

function familyOf(address: string): 'ipv4' | 'ipv6' {
  return address.includes(':') ? 'ipv6' : 'ipv4';
}
