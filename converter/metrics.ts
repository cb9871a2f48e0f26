import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Pool } from 'pg';
import { Counter, collectDefaultMetrics, Gauge, Histogram, register } from 'prom-client';
import { watchPool } from '../db/metrics.ts';
import { isOutage } from '../db/postgres-errors.ts';
import type { Shape } from '../jobs/shape.ts';
import type { Logger } from '../runtime/log.ts';
import type { Reservations } from './reservations.ts';

/** The metrics of a converter. Labels have few values, such as job types and memory classes, so that there are few series. */

const MAX_CONNECTIONS = 50;

export const jobWait = new Histogram({
  name: 'sheetmill_job_wait_seconds',
  help: 'Time from ready to claimed',
  labelNames: ['type'],
  buckets: [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900],
});
export const jobRun = new Histogram({
  name: 'sheetmill_job_run_seconds',
  help: 'Time from claimed to settled, per attempt. The outcome is lost when the job was cancelled or taken over meanwhile',
  labelNames: ['type', 'outcome'],
  buckets: [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300],
});
export const peakMemory = new Histogram({
  name: 'sheetmill_attempt_peak_memory_mb',
  help: 'Peak memory of an attempt and its child processes, by reserved memory',
  labelNames: ['reserved_mb'],
  buckets: [160, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192, 16_384],
});
export const pages = new Counter({
  name: 'sheetmill_pages_total',
  help: 'Pages that were converted or failed. Pages that fail with their whole job are not counted',
  labelNames: ['status', 'engine'],
});
export const sandboxStarts = new Counter({ name: 'sheetmill_sandbox_starts_total', help: 'Sandboxes started' });
export const sandboxDeaths = new Counter({
  name: 'sheetmill_sandbox_deaths_total',
  help: 'Sandboxes that ended during a task: exceeded their memory (outgrown), a step timeout (overdue) or their disk limit (overfull), crashed, were killed externally (killed), sent invalid data (violated), or did not stop after an abort (stopped)',
  labelNames: ['how'],
});
export const sandboxViolations = new Counter({
  name: 'sheetmill_sandbox_violations_total',
  help: 'Sandboxes that were killed because they sent invalid data',
});

export const isolationLayers = new Gauge({
  name: 'sheetmill_isolation',
  help: '1 for each isolation layer of sandboxes',
  labelNames: ['layer'],
});

let reservations: Reservations | undefined;

/** Sets the source of the capacity metrics. */
export function watchReservations(source: Reservations): void {
  reservations = source;
}

let overdue: (() => Promise<Record<string, number>>) | undefined;

/** Sets the source of the retention metric. */
export function watchRetention(read: () => Promise<Record<string, number>>): void {
  overdue = read;
}

new Gauge({
  name: 'sheetmill_retention_overdue_seconds',
  help: 'Time since the oldest row should have been deleted, because it expired or is older than RETENTION_DAYS. All converters report the same',
  labelNames: ['kind'],
  async collect() {
    this.reset();
    const seconds = await overdue?.().catch((error) => {
      if (!isOutage(error)) throw error;
    });
    for (const [kind, age] of Object.entries(seconds ?? {})) this.set({ kind }, age);
  },
});

function capacityGauge(name: string, help: string, part: keyof Shape): void {
  new Gauge({
    name,
    help,
    labelNames: ['state'],
    collect() {
      if (reservations === undefined) return;
      const free = reservations.free()[part];
      this.set({ state: 'free' }, free);
      this.set({ state: 'reserved' }, reservations.capacity[part] - free);
    },
  });
}
capacityGauge('sheetmill_converter_cpu_units', 'CPU units of this converter', 'cpuUnits');
capacityGauge('sheetmill_converter_memory_mb', 'Memory that jobs may reserve in this converter', 'memoryMb');

export interface MetricsServer {
  port: number;
  close(): Promise<void>;
}

/** Serves GET /metrics and /health/live on all addresses. Throws when the port is taken. */
export async function serveMetrics(port: number, pool: Pool, log: Logger): Promise<MetricsServer> {
  collectDefaultMetrics();
  watchPool(pool);
  const server = createServer((request, response) => void respond(request, response, log));
  server.maxConnections = MAX_CONNECTIONS;
  server.listen(port);
  await once(server, 'listening').catch((cause) => {
    throw new Error(`METRICS_PORT=${port}: ${cause.message}`, { cause });
  });
  const address = server.address();
  return {
    port: typeof address === 'object' ? (address?.port ?? port) : port,
    async close(): Promise<void> {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

async function respond({ url }: IncomingMessage, response: ServerResponse, log: Logger): Promise<void> {
  const send = (status: number, type: string, body: string) =>
    response.writeHead(status, { 'Content-Type': type }).end(body);
  if (url === '/health/live') return void send(200, 'application/json', '{"status":"ok"}');
  if (url !== '/metrics') return void send(404, 'text/plain', 'not found');
  try {
    send(200, register.contentType, await register.metrics());
  } catch (error) {
    log.error({ err: error }, 'metrics could not be read');
    send(500, 'text/plain', 'internal');
  }
}
