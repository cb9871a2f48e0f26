import { watch } from 'vue';
import { type Answer, ask } from '../api/http.ts';
import type { Conversion } from './conversions.ts';
import { useResource } from './resource.ts';

/** Pages that a card shows before it links to the upload. */
export const FIRST_PAGES = 12;

/** Keeps the upload of a file up to date until the component is removed. */
export function useConversion(conversion: Conversion) {
  /** The whole document until there are enough pages to show, and at its end; in between only its status, since pages may be many. */
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
