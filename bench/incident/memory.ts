import { peakMb, pssMb, treesOf } from '../processes.ts';

const SAMPLE_MS = 250;

export interface MemoryFigures {
  gigabyteSeconds: number;
  /** Highest sum of the proportional sets (PSS), in MB. */
  peakMb: number;
  /** Highest resident memory of any single process, in MB. */
  largestProcessMb: number;
}

export function canReadMemory(): boolean {
  return pssMb([process.pid]) > 0;
}

/** Follows the trees under `roots` until `stop`. */
export function measureMemory(roots: () => number[]): { stop(): MemoryFigures } {
  const figures: MemoryFigures = { gigabyteSeconds: 0, peakMb: 0, largestProcessMb: 0 };
  let last = performance.now();
  const look = () => {
    const pids = [...treesOf(roots()).values()].flat();
    const sum = pssMb(pids);
    const now = performance.now();
    figures.gigabyteSeconds += (sum / 1024) * ((now - last) / 1000);
    last = now;
    figures.peakMb = Math.max(figures.peakMb, sum);
    for (const pid of pids) figures.largestProcessMb = Math.max(figures.largestProcessMb, peakMb(pid));
  };
  const timer = setInterval(look, SAMPLE_MS);
  return {
    stop() {
      clearInterval(timer);
      look();
      return figures;
    },
  };
}
