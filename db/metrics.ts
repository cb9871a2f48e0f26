import type { Pool } from 'pg';
import { Gauge } from 'prom-client';
import { FairPool } from './fair-pool.ts';

/** Reports the use of this process's pool to Prometheus. */
export function watchPool(pool: Pool): void {
  new Gauge({
    name: 'sheetmill_postgres_connections',
    help: 'Connections to Postgres by state (idle, used), and requests that wait for one (waiting)',
    labelNames: ['state'],
    collect() {
      this.set({ state: 'idle' }, pool.idleCount);
      this.set({ state: 'used' }, pool.totalCount - pool.idleCount);
      const waitingForPermit = pool instanceof FairPool ? pool.waitingForPermit : 0;
      this.set({ state: 'waiting' }, pool.waitingCount + waitingForPermit);
    },
  });
}
