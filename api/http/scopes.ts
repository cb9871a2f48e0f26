import type { Scope } from '../../runtime/config-values.ts';

/** What a route needs: the scope that it takes, or nothing at all. */
export type Access = Scope | 'open';

const all = (access: Access) => ({ read: access, write: access });
const ofJobs = { read: 'jobs:read', write: 'jobs:write' } as const;

/**
 * Every route by the first part of its path, and what it takes to read (GET and HEAD) and to do anything else. A path
 * that is not here does not exist, so that no route can be forgotten and left open.
 */
const ROUTES = new Map<string, { read: Access; write: Access }>([
  ['uploads', { read: 'uploads:read', write: 'uploads:write' }],
  ['jobs', ofJobs],
  // A type is everybody's.
  ['job-types', { read: 'jobs:read', write: 'admin' }],
  ['schedules', ofJobs],
  ['system', ofJobs],
  ['metrics', ofJobs],
  ['health', all('open')],
  ['openapi.json', all('open')],
  ['docs', all('open')],
  // The dashboard: what it shows, it asks for with the key of whoever looks.
  ['', all('open')],
  ['assets', all('open')],
]);

/** More than the longest id takes, escaped: what is longer is not worth looking at. */
const MAX_PATH_LENGTH = 1_000;

/** What a request takes; undefined when there is nothing at the path. */
export function accessTo(method: string, path: string): Access | undefined {
  if (path.length > MAX_PATH_LENGTH) return undefined;
  const [, first = '', ...rest] = path.split('/');
  // The dashboard is at `/` alone: `//uploads` is nothing.
  const route = first === '' && rest.length > 0 ? undefined : ROUTES.get(first);
  return method === 'GET' || method === 'HEAD' ? route?.read : route?.write;
}

/** Whether scopes that were given hold the one that is needed. */
export function allows(given: ReadonlySet<Scope>, needed: Scope): boolean {
  return given.has('admin') || given.has(needed) || (needed.startsWith('jobs:') && given.has('jobs:*'));
}
