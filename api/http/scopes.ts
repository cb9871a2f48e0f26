import type { Scope } from '../../runtime/config-values.ts';

/** The scope that a route requires; `open` routes require no key. */
export type Access = Scope | 'open';

const all = (access: Access) => ({ read: access, write: access });
const ofJobs = { read: 'jobs:read', write: 'jobs:write' } as const;

/**
 * The access to each route by the first segment of its path: `read` for GET and HEAD, `write` for other methods. Paths that
 * are missing here are 404, so that no route is open by mistake.
 */
const ROUTES = new Map<string, { read: Access; write: Access }>([
  ['uploads', { read: 'uploads:read', write: 'uploads:write' }],
  ['jobs', ofJobs],
  // Job types are shared by all owners.
  ['job-types', { read: 'jobs:read', write: 'admin' }],
  ['schedules', ofJobs],
  ['system', ofJobs],
  ['metrics', ofJobs],
  ['health', all('open')],
  ['openapi.json', all('open')],
  ['docs', all('open')],
  // The dashboard contains no data: it reads all data with the key of its user.
  ['', all('open')],
  ['assets', all('open')],
]);

/** Longer than the path of the longest id, escaped. */
const MAX_PATH_LENGTH = 1_000;

/** The access that a request requires; undefined for an unknown path. */
export function accessTo(method: string, path: string): Access | undefined {
  if (path.length > MAX_PATH_LENGTH) return undefined;
  const [, first = '', ...rest] = path.split('/');
  // The empty segment is the dashboard only in `/`, not in `//uploads`.
  const route = first === '' && rest.length > 0 ? undefined : ROUTES.get(first);
  return method === 'GET' || method === 'HEAD' ? route?.read : route?.write;
}

/** True if the granted scopes include the required one. */
export function allows(granted: ReadonlySet<Scope>, required: Scope): boolean {
  return granted.has('admin') || granted.has(required) || (required.startsWith('jobs:') && granted.has('jobs:*'));
}
