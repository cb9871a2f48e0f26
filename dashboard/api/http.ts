import { isKeyWanted, key } from './key.ts';

export type { Answer } from '../../api/client-types.ts';

/** A request that failed. `code` is the problem's, or `unreachable` when there was no answer. */
export class Failure extends Error {
  readonly code: string;
  readonly requestId: string | null;

  constructor(code: string, message: string, requestId: string | null = null) {
    super(message);
    this.name = 'Failure';
    this.code = code;
    this.requestId = requestId;
  }
}

/** Headers that carry the key. */
export function authorization(): Record<string, string> {
  return key.value === '' ? {} : { Authorization: `Bearer ${key.value}` };
}

/** Longer than the service takes for any JSON. */
const LIMIT_MS = 60_000;

/** Requests JSON. Throws Failure. */
export async function ask<T>(path: string, { method = 'GET', json }: { method?: string; json?: unknown } = {}) {
  const response = await request(path, {
    method,
    signal: AbortSignal.timeout(LIMIT_MS),
    ...(json !== undefined && { body: JSON.stringify(json), headers: { 'Content-Type': 'application/json' } }),
  });
  return (response.status === 204 ? undefined : await response.json()) as T;
}

/** Requests bytes. Throws Failure. */
export async function askBlob(path: string, signal?: AbortSignal): Promise<Blob> {
  const response = await request(path, signal ? { signal } : {});
  return response.blob();
}

async function request(path: string, init: RequestInit): Promise<Response> {
  const headers = { ...authorization(), ...(init.headers as Record<string, string>) };
  const response = await fetch(path, { ...init, headers }).catch((error) => {
    if (init.signal?.aborted && error.name !== 'TimeoutError') throw error;
    throw unreachable();
  });
  if (!response.ok) throw failureOf(response.status, await response.text());
  return response;
}

export function unreachable(): Failure {
  return new Failure('unreachable', 'The service cannot be reached.');
}

/** The failure of an unsuccessful answer; the first 401 opens the key dialog. */
export function failureOf(status: number, body: string): Failure {
  if (status === 401) isKeyWanted.value = true;
  try {
    const { code, detail, request_id } = JSON.parse(body);
    return new Failure(String(code), String(detail), request_id ?? null);
  } catch {
    return new Failure(`http_${status}`, `The answer was ${status}.`);
  }
}

/** A path and its query, without undefined and empty values. */
export function withQuery(path: string, query: Record<string, string | number | undefined>): string {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== '');
  const search = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return search === '' ? path : `${path}?${search}`;
}
