import type { Requester } from '../../runtime/quota.ts';

/** The sender of a request that was authorized. */
export interface Caller {
  /** The owner of the rows that the caller creates; null when the service requires no key. */
  owner: string | null;
  /** The owner whose uploads, jobs and schedules the caller may see; undefined means all owners. */
  sees: string | undefined;
  /** The name under which the requests of the caller are counted and share memory; undefined for unlimited callers. */
  requester: Requester;
  /** When the token expires, in seconds since 1970. */
  expires?: number | undefined;
}

/** The caller of a route that requires no key. */
export const ANONYMOUS: Caller = { owner: null, sees: undefined, requester: undefined };

/** True if the caller may see the row. */
export function isVisible({ owner }: { owner: string | null }, { sees }: Caller): boolean {
  return sees === undefined || owner === sees;
}
