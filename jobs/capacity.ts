import { eq, max } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import { converters } from '../db/schema.ts';
import { AppError } from '../runtime/errors.ts';
import { classWithin, type Shape } from './shape.ts';

/** The largest memory class, in MB, that any live converter can reserve; the largest of all without a live converter. */
export async function largestClass(db: Database): Promise<number> {
  const [largest] = await db
    .select({ memoryMb: max(converters.memoryMb) })
    .from(converters)
    .where(eq(converters.status, 'live'));
  return classWithin(largest?.memoryMb ?? Number.POSITIVE_INFINITY);
}

/**
 * Throws `exceeds_capacity` (422) for a shape that no live converter can hold. Accepts any shape without a live converter,
 * because a large one may start.
 */
export async function refuseUnholdable(db: Database, shapes: Shape[]): Promise<void> {
  const live = await db
    .selectDistinct({ cpuUnits: converters.cpuUnits, memoryMb: converters.memoryMb })
    .from(converters)
    .where(eq(converters.status, 'live'));
  if (live.length === 0) return;
  for (const shape of shapes) {
    if (live.some((room) => shape.cpuUnits <= room.cpuUnits && shape.memoryMb <= room.memoryMb)) continue;
    const room = live.map(({ cpuUnits, memoryMb }) => `${cpuUnits} CPU and ${memoryMb} MB`).join(', ');
    throw new AppError(
      'exceeds_capacity',
      `resource_requirements: ${shape.cpuUnits} CPU and ${shape.memoryMb} MB are more than any converter has (${room})`,
      { status: 422 },
    );
  }
}
