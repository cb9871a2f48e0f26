import type { Pool } from 'pg';
import { Gauge } from 'prom-client';
import { FairPool } from './fair-pool.ts';

/** Tells Prometheus how the connections of this process's pool are used. */
export function watchPool(pool: Pool): void {
  new Gauge({
    name: 'sheetmill_postgres_connections',
    help: 'Connections to Postgres, and who waits for one',
    labelNames: ['state'],
    collect() {
      this.set({ state: 'idle' }, pool.idleCount);
      this.set({ state: 'used' }, pool.totalCount - pool.idleCount);
      const inTurn = pool instanceof FairPool ? pool.waitingForTurn : 0;
      this.set({ state: 'waiting' }, pool.waitingCount + inTurn);
    },
  });
}
