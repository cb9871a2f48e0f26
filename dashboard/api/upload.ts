import { type Answer, ask, withQuery } from './http.ts';

/** Pages per request. */
export const PAGES_STEP = 200;

/** The document of an upload with its first `count` pages, or a few more. Throws Failure. */
export async function askUpload(id: string, count: number): Promise<Answer<'upload'>> {
  const path = `/uploads/${encodeURIComponent(id)}`;
  const upload = await ask<Answer<'upload'>>(path);
  const pages = [...upload.pages];
  let cursor = upload.pages_next_cursor;
  while (cursor !== null && pages.length < count) {
    const more = await ask<Answer<'uploadPages'>>(withQuery(`${path}/pages`, { limit: PAGES_STEP, cursor }));
    pages.push(...more.items);
    cursor = more.next_cursor;
  }
  return { ...upload, pages, pages_next_cursor: cursor };
}
