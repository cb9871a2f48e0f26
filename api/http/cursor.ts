import type { z } from 'zod';
import { invalid } from './problem.ts';

/** Writes the place after which a list continues; null when the list is complete. */
export function writeCursor(place: object | null): string | null {
  return place && Buffer.from(JSON.stringify(place)).toString('base64url');
}

/** Reads what `writeCursor` wrote. Throws 400 for anything else. */
export function readCursor<Shape extends z.ZodType>(
  shape: Shape,
  cursor: string | undefined,
): z.output<Shape> | undefined {
  if (cursor === undefined) return undefined;
  try {
    return shape.parse(JSON.parse(Buffer.from(cursor, 'base64url').toString()));
  } catch {
    // A client can send any text as a cursor.
    throw invalid('cursor: invalid or expired');
  }
}
