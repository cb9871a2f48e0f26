import { watch } from 'vue';
import type { Conversion } from './conversions.ts';
import { type Answer, ask } from './http.ts';
import { useResource } from './resource.ts';

/** So many pages are shown before one goes to those of the upload. */
export const FIRST_PAGES = 12;

/** Keeps the upload that was made of a file up to date, until the component goes. */
export function useConversion(conversion: Conversion) {
  /** All of it until there are enough pages to show, and at its end; in between its status alone, as pages may be many. */
  async function load(): Promise<Answer<'upload'> | undefined> {
    const known = conversion.upload;
    if (known === undefined) return undefined;
    if (known.finished_at === null && known.pages.length >= FIRST_PAGES) {
      const { done, ...status } = await ask<Answer<'uploadStatus'>>(`/uploads/${known.id}/status`);
      if (!done) return { ...known, ...status };
    }
    return ask(`/uploads/${known.id}`);
  }

  const { value, failure, reload } = useResource(load, {
    of: () => conversion.upload?.id,
    concerns: ({ upload_id }) => upload_id === conversion.upload?.id,
  });
  watch(value, (upload) => {
    if (upload !== undefined) conversion.upload = upload;
  });
  return { failure, reload };
}
