import { z } from 'zod';
import { wholeNumber } from './fields.ts';

export const limit = wholeNumber(1, 200).default(50).describe('The maximum number of items');

/** The document of a list. */
export const listOf = <Item extends z.ZodType>(item: Item) =>
  z.strictObject({ items: z.array(item), next_cursor: z.string().nullable() });

/** Splits rows, read with `limit + 1`, into the items of one page and the cursor of the next page. */
export function pageOf<Row>(rows: Row[], limit: number, cursorOf: (last: Row) => string) {
  const items = rows.slice(0, limit);
  const last = items.at(-1);
  return { items, next_cursor: rows.length > limit && last !== undefined ? cursorOf(last) : null };
}
