import { useDocumentVisibility, useIntervalFn } from '@vueuse/core';
import { watch } from 'vue';
import type { Resource } from './resource.ts';

/** Reloads data that changes without events, while the page is visible and `isWanted`. */
export function poll(
  { isLoading, reload }: Pick<Resource<unknown>, 'isLoading' | 'reload'>,
  everyMs: number,
  isWanted: () => boolean = () => true,
): void {
  const visibility = useDocumentVisibility();
  function look(): void {
    if (visibility.value === 'visible' && !isLoading.value && isWanted()) reload();
  }
  useIntervalFn(look, everyMs);
  watch(visibility, look);
}
