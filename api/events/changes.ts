/** Rows that have changed; `all` when there are too many to name, or when some may have been missed. */
export type Changes = 'all' | { jobIds: string[]; uploadIds: string[] };

/** Reads the payload of a NOTIFY that names rows (see `notify_ids` in migrations). */
export function readChanges(payload: string): Changes {
  if (payload === '') return 'all';
  try {
    const { jobs, uploads }: Record<string, unknown> = JSON.parse(payload);
    return { jobIds: stringsIn(jobs), uploadIds: stringsIn(uploads) };
  } catch {
    // Anyone with access to the database can send a NOTIFY.
    return 'all';
  }
}

function stringsIn(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((one) => typeof one === 'string') : [];
}
