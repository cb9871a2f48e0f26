import { and, asc, desc, eq, getTableColumns, inArray, lt, sql } from 'drizzle-orm';
import type { Queryable } from './client.ts';
import { originals, pages, type UploadStatus, uploads } from './schema.ts';

export type Upload = Omit<typeof uploads.$inferSelect, 'password'>;
export type Original = typeof originals.$inferSelect;
export type Page = typeof pages.$inferSelect;

/** Every column but the password, which only the converter reads. */
const { password: _, ...publicColumns } = getTableColumns(uploads);

export async function findUpload(db: Queryable, id: string): Promise<Upload | undefined> {
  const [upload] = await db.select(publicColumns).from(uploads).where(eq(uploads.id, id));
  return upload;
}

/** In any order; those that are not there are left out. */
export async function findUploads(db: Queryable, ids: string[]): Promise<Upload[]> {
  return db
    .select(publicColumns)
    .from(uploads)
    .where(sql`${uploads.id} = any(${sql.param(ids)}::uuid[])`);
}

/** Which of these uploads there are. */
export async function listUploadIds(db: Queryable, ids: string[]): Promise<Set<string>> {
  if (ids.length === 0) return new Set();
  const found = await db.select({ id: uploads.id }).from(uploads).where(inArray(uploads.id, ids));
  return new Set(found.map(({ id }) => id));
}

/** Newest first; `before` is the id of the last one of the page before. */
export async function listUploads(
  db: Queryable,
  { status, limit, before }: { status?: UploadStatus | undefined; limit: number; before?: string | undefined },
): Promise<Upload[]> {
  return db
    .select(publicColumns)
    .from(uploads)
    .where(and(status && eq(uploads.status, status), before ? lt(uploads.id, before) : undefined))
    .orderBy(desc(uploads.id))
    .limit(limit);
}

/** Deletes an upload that has ended, with everything that hangs on it. Gives false when there is none such. */
export async function deleteEndedUpload(db: Queryable, id: string): Promise<boolean> {
  const deleted = await db
    .delete(uploads)
    .where(and(eq(uploads.id, id), inArray(uploads.status, ['completed', 'failed', 'cancelled'])))
    .returning({ id: uploads.id });
  return deleted.length > 0;
}

export async function listOriginals(db: Queryable, uploadId: string): Promise<Original[]> {
  return db.select().from(originals).where(eq(originals.uploadId, uploadId)).orderBy(asc(originals.original));
}

/** In the order of originals and their pages. */
export async function listPages(db: Queryable, uploadId: string): Promise<Page[]> {
  return db.select().from(pages).where(eq(pages.uploadId, uploadId)).orderBy(asc(pages.original), asc(pages.page));
}

/** What there is of the pages that completed, in order. */
export async function listPageFiles(
  db: Queryable,
  uploadId: string,
): Promise<{ original: number; page: number; path: string; sha256: string; bytes: number }[]> {
  return db
    .select({
      original: pages.original,
      page: pages.page,
      path: sql<string>`${pages.path}`,
      sha256: sql<string>`${pages.sha256}`,
      bytes: sql<number>`${pages.bytes}`,
    })
    .from(pages)
    .where(and(eq(pages.uploadId, uploadId), eq(pages.status, 'completed')))
    .orderBy(asc(pages.original), asc(pages.page));
}

export async function findOriginal(db: Queryable, uploadId: string, original: number): Promise<Original | undefined> {
  const [found] = await db
    .select()
    .from(originals)
    .where(and(eq(originals.uploadId, uploadId), eq(originals.original, original)));
  return found;
}

export async function findPage(
  db: Queryable,
  uploadId: string,
  original: number,
  page: number,
): Promise<Page | undefined> {
  const [found] = await db
    .select()
    .from(pages)
    .where(and(eq(pages.uploadId, uploadId), eq(pages.original, original), eq(pages.page, page)));
  return found;
}
