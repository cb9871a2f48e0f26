import { computed } from 'vue';
import type { Conversion } from './conversions.ts';
import { type Answer, ask } from './http.ts';
import { useResource } from './resource.ts';

/** So many are shown before one goes to the page of the upload. */
const FIRST = 12;

/** The upload that was made of a file, live. */
export function useConversion(conversion: Conversion) {
  let known: Answer<'upload'> | undefined;

  /** All of it until there are enough pages to show, and at its end; in between its status alone, as pages may be many. */
  async function load(): Promise<Answer<'upload'> | undefined> {
    const { id } = conversion;
    if (id === undefined) return undefined;
    if (known?.id === id && known.pages.length >= FIRST) {
      const { done, ...status } = await ask<Answer<'uploadStatus'>>(`/uploads/${id}/status`);
      if (!done) return (known = { ...known, ...status });
    }
    return (known = await ask<Answer<'upload'>>(`/uploads/${id}`));
  }

  const { value, failure, reload } = useResource(load, {
    of: () => conversion.id,
    concerns: ({ upload_id }) => upload_id === conversion.id,
  });
  return {
    upload: value,
    failure,
    reload,
    firstPages: computed(() => value.value?.pages.slice(0, FIRST) ?? []),
  };
}
