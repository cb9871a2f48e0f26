import { reactive, watch } from 'vue';
import { useRoute, useRouter } from 'vue-router';
import type { Answer } from '../api/http.ts';

/** The values of filters. */
export const UPLOAD_STATUSES = [
  'queued',
  'processing',
  'completed',
  'failed',
  'cancelled',
] as const satisfies Answer<'upload'>['status'][];
export const JOB_STATUSES = [
  'scheduled',
  'blocked',
  'ready',
  'running',
  'retrying',
  'completed',
  'failed',
  'cancelled',
] as const satisfies Answer<'job'>['status'][];
export const PRIORITIES = ['critical', 'high', 'normal', 'low'] as const satisfies Answer<'job'>['priority'][];

/** Filters in the query of the page's address, so that a link shows the same list; empty if not set. */
export function useFilters<Name extends string>(...names: Name[]): Record<Name, string> {
  const route = useRoute();
  const router = useRouter();
  const view = route.name;
  const filters = reactive(Object.fromEntries(names.map((name) => [name, ''])));
  watch(
    () => route.query,
    (query) => {
      // The address changes shortly before its view is removed.
      if (route.name === view) for (const name of names) filters[name] = String(query[name] ?? '');
    },
    { immediate: true },
  );
  watch(filters, () => void router.replace({ query: withoutEmpty(filters) }));
  return filters as Record<Name, string>;
}

function withoutEmpty(query: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.entries(query).filter(([, value]) => value !== ''));
}
