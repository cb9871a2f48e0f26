import { LARGE_MB } from '../jobs/background-lane.ts';
import type { Shape } from '../jobs/shape.ts';

/** The reservation of a conversion. A large one runs in the background lane, without a CPU unit. */
export function conversionShape(memoryMb: number): Shape {
  return { cpuUnits: memoryMb > LARGE_MB ? 0 : 1, memoryMb };
}
