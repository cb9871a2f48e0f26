import type pg from 'pg';

let made = 0;

/** Completed uploads of one original each, by their names, as rows alone: there are no files of them. The last is the newest. */
export async function insertUploads(pool: pg.Pool, names: string[], owner: string | null = null): Promise<string[]> {
  const ids = names.map(() => `01990000-0000-7000-8000-${(++made).toString(16).padStart(12, '0')}`);
  await pool.query(
    `insert into uploads (id, status, priority, dpi, owner, pages_done, pages_total, finished_at)
     select id, 'completed', 'normal', 200, $2, 1, 1, now() from unnest($1::uuid[]) id`,
    [ids, owner],
  );
  await pool.query(
    `insert into originals (upload_id, original, filename, media_type, bytes, sha256, path, page_count)
     select id, 1, name, 'application/pdf', 1000, repeat('0', 64), 'uploads/' || id || '/originals/1.pdf', 1
     from unnest($1::uuid[], $2::text[]) of_one (id, name)`,
    [ids, names],
  );
  return ids;
}
