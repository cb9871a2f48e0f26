import { and, asc, desc, eq, getTableColumns, gte, inArray, isNotNull, lt, lte, type SQL, sql } from 'drizzle-orm';
import { unionAll } from 'drizzle-orm/pg-core';
import type { Queryable } from './client.ts';
import { insertOf } from './insert.ts';
import { originals, pages, type UploadStatus, uploads } from './schema.ts';

export type Upload = Omit<typeof uploads.$inferSelect, 'password'>;
export type Original = typeof originals.$inferSelect;
export type Page = typeof pages.$inferSelect;

/** Every column but the password, which only the converter reads. */
const { password: _, ...publicColumns } = getTableColumns(uploads);

/** Inserts uploads and their originals in one statement. Returns the uploads in any order. */
export async function insertUploads(
  db: Queryable,
  newUploads: (typeof uploads.$inferInsert)[],
  newOriginals: (typeof originals.$inferInsert)[],
): Promise<Upload[]> {
  const insertedOriginals = db
    .$with('inserted_originals', { uploadId: originals.uploadId })
    .as(sql`${insertOf(originals, newOriginals)} returning upload_id`);
  const inserted = db.$with('inserted', publicColumns).as(sql`${insertOf(uploads, newUploads)} returning *`);
  return db.with(insertedOriginals, inserted).select().from(inserted);
}

/** The position of a page in an upload. */
export type PageCursor = Pick<Page, 'original' | 'page'>;

export async function findUpload(db: Queryable, id: string): Promise<Upload | undefined> {
  const [upload] = await db.select(publicColumns).from(uploads).where(eq(uploads.id, id));
  return upload;
}

/** In any order, without missing ones. */
export async function findUploads(db: Queryable, ids: string[]): Promise<Upload[]> {
  return db
    .select(publicColumns)
    .from(uploads)
    .where(sql`${uploads.id} = any(${sql.param(ids)}::uuid[])`);
}

/** The ids of the uploads that exist, and that belong to the owner if one is given. */
export async function listUploadIds(db: Queryable, ids: string[], owner: string | undefined): Promise<Set<string>> {
  if (ids.length === 0) return new Set();
  const found = await db
    .select({ id: uploads.id })
    .from(uploads)
    .where(and(sql`${uploads.id} = any(${sql.param(ids)}::uuid[])`, ofOwner(owner)));
  return new Set(found.map(({ id }) => id));
}

const ofOwner = (owner: string | undefined) => (owner === undefined ? undefined : eq(uploads.owner, owner));

export type ListedUpload = Upload & {
  /** The names of its originals, in order; null for one without a name. */
  filenames: (string | null)[];
};

/** Newest first, with the names of their files. `before` is the last id of the previous page. */
export async function listUploads(
  db: Queryable,
  {
    owner,
    status,
    search,
    limit,
    before,
  }: {
    owner?: string | undefined;
    status?: UploadStatus | undefined;
    /** A part of a file's name, in upper or lower case, or the start of the upload's id. */
    search?: string | undefined;
    limit: number;
    before?: string | undefined;
  },
): Promise<ListedUpload[]> {
  const filenames = sql<(string | null)[]>`array(
    select filename from originals where upload_id = uploads.id order by original)`;
  const filter = and(ofOwner(owner), status && eq(uploads.status, status), before ? lt(uploads.id, before) : undefined);
  const newest = (condition: SQL | undefined) =>
    db.select({ id: uploads.id }).from(uploads).where(and(filter, condition)).orderBy(desc(uploads.id)).limit(limit);
  // Two queries, since each has its own index.
  const matching = (part: string) =>
    inArray(uploads.id, unionAll(newest(isNamed(part, filter)), newest(idStarts(part))));
  return db
    .select({ ...publicColumns, filenames })
    .from(uploads)
    .where(search === undefined ? filter : matching(search))
    .orderBy(desc(uploads.id))
    .limit(limit);
}

/** Parts of a name that the index finds in every locale of Postgres. */
const IN_INDEX = /[a-z0-9]{3}/i;
/** The number of newest uploads whose names are compared one by one, for a part that the index cannot find. */
const MAX_COMPARED = 10_000;

function isNamed(part: string, filter: SQL | undefined): SQL {
  const pattern = `%${part.replace(/[\\%_]/g, '\\$&')}%`;
  if (IN_INDEX.test(part)) return sql`uploads.id in (select upload_id from originals where filename ilike ${pattern})`;
  return sql`uploads.id in (
    select id from (select id from uploads where ${filter ?? sql`true`} order by id desc limit ${MAX_COMPARED}) newest
    where (select bool_or(filename ilike ${pattern}) from originals where upload_id = newest.id))`;
}

/** Selects ids with a prefix, as a range of ids. */
function idStarts(part: string): SQL | undefined {
  const digits = part.toLowerCase().replaceAll('-', '');
  if (!/^[0-9a-f]{1,32}$/.test(digits)) return sql`false`;
  return and(gte(uploads.id, digits.padEnd(32, '0')), lte(uploads.id, digits.padEnd(32, 'f')));
}

/** The end of each upload, null for one that has not ended; without missing uploads. */
export async function findUploadEnds(db: Queryable, ids: string[]): Promise<Map<string, Date | null>> {
  const found = await db
    .select({ id: uploads.id, finishedAt: uploads.finishedAt })
    .from(uploads)
    .where(sql`${uploads.id} = any(${sql.param(ids)}::uuid[])`);
  return new Map(found.map(({ id, finishedAt }) => [id, finishedAt]));
}

export interface UploadCounts {
  originals: number;
  pagesCompleted: number;
  pagesFailed: number;
}

export async function countParts(db: Queryable, id: string): Promise<UploadCounts> {
  const pagesFailed = await db.$count(pages, and(eq(pages.uploadId, id), eq(pages.status, 'failed')));
  return {
    originals: await db.$count(originals, eq(originals.uploadId, id)),
    pagesCompleted: (await db.$count(pages, eq(pages.uploadId, id))) - pagesFailed,
    pagesFailed,
  };
}

/** The files of these uploads' pages. */
export async function listPagePaths(db: Queryable, ids: string[]): Promise<string[]> {
  if (ids.length === 0) return [];
  const found = await db
    .select({ path: sql<string>`${pages.path}` })
    .from(pages)
    .where(and(sql`${pages.uploadId} = any(${sql.param(ids)}::uuid[])`, isNotNull(pages.path)));
  return found.map(({ path }) => path);
}

export async function listOriginals(db: Queryable, uploadId: string): Promise<Original[]> {
  return db.select().from(originals).where(eq(originals.uploadId, uploadId)).orderBy(asc(originals.original));
}

/** In the order of originals and their pages. */
export async function listPages(db: Queryable, uploadId: string): Promise<Page[]> {
  return db.select().from(pages).where(eq(pages.uploadId, uploadId)).orderBy(asc(pages.original), asc(pages.page));
}

/** Up to `limit` pages in order, after the page `after`. `next` is the last of them if there are more. */
export async function listSomePages(
  db: Queryable,
  uploadId: string,
  { limit, after }: { limit: number; after?: PageCursor | undefined },
): Promise<{ items: Page[]; next: PageCursor | null }> {
  const found = await db
    .select()
    .from(pages)
    .where(
      and(
        eq(pages.uploadId, uploadId),
        after && sql`(${pages.original}, ${pages.page}) > (${after.original}::int, ${after.page}::int)`,
      ),
    )
    .orderBy(asc(pages.original), asc(pages.page))
    .limit(limit + 1);
  const items = found.slice(0, limit);
  return { items, next: found.length > limit ? (items.at(-1) ?? null) : null };
}

/** The file of a completed page. */
type PageFile = { original: number; page: number; path: string; sha256: string; bytes: number };

/** The rows of one statement: parsing a longer answer would block the event loop. */
const MAX_PAGE_FILES = 2_000;

/** The files of all completed pages, in order. */
export async function listPageFiles(db: Queryable, uploadId: string): Promise<PageFile[]> {
  const files: PageFile[] = [];
  for (;;) {
    const found = await listSomePageFiles(db, uploadId, files.at(-1));
    files.push(...found);
    if (found.length < MAX_PAGE_FILES) return files;
  }
}

async function listSomePageFiles(
  db: Queryable,
  uploadId: string,
  after: PageCursor = { original: 0, page: 0 },
): Promise<PageFile[]> {
  return db
    .select({
      original: pages.original,
      page: pages.page,
      path: sql<string>`${pages.path}`,
      sha256: sql<string>`${pages.sha256}`,
      bytes: sql<number>`${pages.bytes}`,
    })
    .from(pages)
    .where(
      and(
        eq(pages.uploadId, uploadId),
        eq(pages.status, 'completed'),
        sql`(${pages.original}, ${pages.page}) > (${after.original}::int, ${after.page}::int)`,
      ),
    )
    .orderBy(asc(pages.original), asc(pages.page))
    .limit(MAX_PAGE_FILES);
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
