/** The ids of changed rows; `all` when there are too many, or when a NOTIFY may have been lost. */
export type Changes = 'all' | { jobIds: string[]; uploadIds: string[] };

/** Reads the payload of a NOTIFY with ids of rows (see `notify_ids` in migrations). */
export function readChanges(payload: string): Changes {
  if (payload === '') return 'all';
  try {
    const { jobs, uploads }: Record<string, unknown> = JSON.parse(payload);
    return { jobIds: stringsIn(jobs), uploadIds: stringsIn(uploads) };
  } catch {
    // Any client of the database can send any payload.
    return 'all';
  }
}

function stringsIn(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((one) => typeof one === 'string') : [];
}
