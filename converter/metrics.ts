import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Pool } from 'pg';
import { Counter, collectDefaultMetrics, Gauge, Histogram, register } from 'prom-client';
import { watchPool } from '../db/metrics.ts';
import { isOutage } from '../db/postgres-errors.ts';
import type { Room } from '../jobs/room.ts';
import type { Shape } from '../jobs/shape.ts';
import type { Logger } from '../runtime/log.ts';

/** What a converter tells Prometheus, and where. Labels are job types, classes of memory and other words of ours: so there are few series. */

const MAX_CONNECTIONS = 50;

export const jobWait = new Histogram({
  name: 'sheetmill_job_wait_seconds',
  help: 'From ready to claimed',
  labelNames: ['type'],
  buckets: [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900],
});
export const jobRun = new Histogram({
  name: 'sheetmill_job_run_seconds',
  help: 'From claimed to settled, by attempt; lost are those whose job was cancelled or taken over meanwhile',
  labelNames: ['type', 'outcome'],
  buckets: [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300],
});
export const peakMemory = new Histogram({
  name: 'sheetmill_attempt_peak_memory_mb',
  help: 'Peak memory of an attempt with all that it started, by the memory that it had reserved',
  labelNames: ['reserved_mb'],
  buckets: [160, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192, 16_384],
});
export const pages = new Counter({
  name: 'sheetmill_pages_total',
  help: 'Pages that attempts here have made, or that failed alone; those that fail with their whole job are not among them',
  labelNames: ['status', 'engine'],
});
export const sandboxStarts = new Counter({ name: 'sheetmill_sandbox_starts_total', help: 'Sandboxes started' });
export const sandboxDeaths = new Counter({
  name: 'sheetmill_sandbox_deaths_total',
  help: 'Sandboxes that died at work: met their cap (outgrown), took too long for a step (overdue), wrote too much (overfull), crashed, were killed by others, sent invalid data (violated), or did not stop when told to (stopped)',
  labelNames: ['how'],
});
export const sandboxViolations = new Counter({
  name: 'sheetmill_sandbox_violations_total',
  help: 'Sandboxes that were killed because they sent invalid data, at work or idle',
});

export const isolationLayers = new Gauge({
  name: 'sheetmill_isolation',
  help: '1 for each layer between sandboxes and this machine',
  labelNames: ['layer'],
});

let ledger: { capacity: Shape; free: () => Room } | undefined;

/** Tells where capacity is read whenever it is asked for. */
export function watchLedger(capacity: Shape, free: () => Room): void {
  ledger = { capacity, free };
}

let overdue: (() => Promise<Record<string, number>>) | undefined;

/** Tells where the age of what retention has not deleted yet is read whenever it is asked for. */
export function watchRetention(read: () => Promise<Record<string, number>>): void {
  overdue = read;
}

new Gauge({
  name: 'sheetmill_retention_overdue_seconds',
  help: 'For how long the oldest row should have been deleted: expired and past RETENTION_DAYS. The same from every converter',
  labelNames: ['kind'],
  async collect() {
    this.reset();
    const seconds = await overdue?.().catch((error) => {
      if (!isOutage(error)) throw error;
    });
    for (const [kind, age] of Object.entries(seconds ?? {})) this.set({ kind }, age);
  },
});

function ledgerGauge(name: string, help: string, part: keyof Shape): void {
  new Gauge({
    name,
    help,
    labelNames: ['state'],
    collect() {
      if (ledger === undefined) return;
      const free = ledger.free()[part];
      this.set({ state: 'free' }, free);
      this.set({ state: 'reserved' }, ledger.capacity[part] - free);
    },
  });
}
ledgerGauge('sheetmill_converter_cpu_units', 'CPU units of this converter', 'cpuUnits');
ledgerGauge('sheetmill_converter_memory_mb', 'Memory that jobs may reserve in this converter', 'memoryMb');

/**
 * Serves GET /metrics and /health/live on all addresses: a converter answers nothing else. Gives the port; throws when it
 * is taken.
 */
export async function serveMetrics(port: number, pool: Pool, log: Logger) {
  collectDefaultMetrics();
  watchPool(pool);
  const server = createServer((request, response) => {
    const answer = (status: number, type: string, body: string) =>
      response.writeHead(status, { 'Content-Type': type }).end(body);
    if (request.url === '/health/live') answer(200, 'application/json', '{"status":"ok"}');
    else if (request.url !== '/metrics') answer(404, 'text/plain', 'not found');
    else
      register.metrics().then(
        (text) => answer(200, register.contentType, text),
        (error) => {
          log.error({ err: error }, 'metrics not read');
          answer(500, 'text/plain', 'internal');
        },
      );
  });
  server.maxConnections = MAX_CONNECTIONS;
  server.listen(port);
  await once(server, 'listening').catch((cause) => {
    throw new Error(`METRICS_PORT=${port}: ${cause.message}`, { cause });
  });
  return {
    port: (server.address() as AddressInfo).port,
    async close(): Promise<void> {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
