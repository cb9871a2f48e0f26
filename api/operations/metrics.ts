import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry, register } from 'prom-client';
import type { Database } from '../../db/client.ts';
import { type EventsHealth, readEventsHealth } from '../../db/events.ts';
import { watchPool } from '../../db/metrics.ts';
import { isOutage } from '../../db/postgres-errors.ts';
import { listConverters, queueDepths, recentThroughput, worstDelays } from '../../db/system.ts';

/** What an API process tells Prometheus: what it has counted itself, and what Postgres knows, which every API tells alike. */

export const requestSeconds = new Histogram({
  name: 'sheetmill_http_request_seconds',
  help: 'From the headers of a request to the end of its answer, with waits that were asked for; aborted are those whose client went away before it began',
  labelNames: ['method', 'route', 'status'],
  buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60],
});
export const uploadsAccepted = new Counter({
  name: 'sheetmill_uploads_accepted_total',
  help: 'Uploads stored and queued',
});
export const bytesReceived = new Counter({
  name: 'sheetmill_received_bytes_total',
  help: 'Bytes of the files of accepted uploads',
});
export const webhookTries = new Counter({
  name: 'sheetmill_webhook_tries_total',
  help: 'Tries to deliver a webhook: delivered, failed until the next try, or given up',
  labelNames: ['outcome'],
});
export const scheduleRuns = new Counter({
  name: 'sheetmill_schedule_runs_total',
  help: 'Runs of schedules that were due: submitted, failed to be submitted, missed, or overlapped by the previous job',
  labelNames: ['outcome'],
});

/** Ready jobs of a shape are counted up to here. */
const MAX_DEPTH = 10_000;

/** Shapes that have series of their own, the smallest first; the rest is counted as `other`. */
const MAX_SHAPES = 64;

/** Begins to watch this process and its connections. */
export function watchProcess(db: Database): void {
  collectDefaultMetrics();
  watchPool(db.$client);
}

/** Everything in Prometheus' text format; while Postgres is away, what this process knows by itself. */
export async function readMetrics(db: Database): Promise<string> {
  const asked = Promise.all([
    listConverters(db),
    queueDepths(db, MAX_DEPTH),
    recentThroughput(db, 1),
    readEventsHealth(db),
    worstDelays(db, MAX_DEPTH),
  ]);
  const known = await asked.then(
    (rows) => metricsOf(...rows).metrics(),
    (error) => {
      if (!isOutage(error)) throw error;
      return '';
    },
  );
  return `${await register.metrics()}\n${known}`;
}

type Rows<Query extends (...args: never[]) => Promise<unknown>> = Awaited<ReturnType<Query>>;

function metricsOf(
  live: Rows<typeof listConverters>,
  queues: Rows<typeof queueDepths>,
  minutes: Rows<typeof recentThroughput>,
  { lagSeconds, notificationQueueUsage }: EventsHealth,
  delays: Rows<typeof worstDelays>,
): Registry {
  const registry = new Registry();
  const gauge = <Label extends string>(name: string, help: string, labelNames: readonly Label[]) =>
    new Gauge({ name: `sheetmill_${name}`, help, labelNames, registers: [registry] });
  const capacity = gauge('capacity_memory_mb', 'Memory that a converter may reserve', ['converter']);
  const reserved = gauge('reserved_memory_mb', 'Memory that its running jobs have reserved', ['converter']);
  for (const { name, memoryMb, reservedMemoryMb } of live) {
    capacity.set({ converter: name }, memoryMb);
    reserved.set({ converter: name }, reservedMemoryMb);
  }
  const shape = ['cpu_units', 'memory_mb'] as const;
  const depth = gauge('queue_depth', `Ready jobs of a shape, counted up to ${MAX_DEPTH}`, shape);
  const age = gauge('queue_oldest_seconds', 'How long the oldest of them has been ready', shape);
  for (const { cpuUnits, memoryMb, depth: jobs, oldestAgeSeconds } of queues.slice(0, MAX_SHAPES)) {
    depth.set({ cpu_units: cpuUnits, memory_mb: memoryMb }, jobs);
    age.set({ cpu_units: cpuUnits, memory_mb: memoryMb }, oldestAgeSeconds);
  }
  const others = queues.slice(MAX_SHAPES);
  if (others.length > 0) {
    const other = { cpu_units: 'other', memory_mb: 'other' };
    depth.set(
      other,
      others.reduce((sum, { depth: jobs }) => sum + jobs, 0),
    );
    age.set(other, Math.max(...others.map(({ oldestAgeSeconds }) => oldestAgeSeconds)));
  }
  const peak = gauge('peak_memory_mb', 'Highest peak memory of the attempts that ended in the last minute', []);
  peak.set(Math.max(0, ...minutes.map(({ peak_memory_mb }) => peak_memory_mb ?? 0)));
  const lag = gauge(
    'events_lag_seconds',
    'Age of the oldest event that an open transaction withholds from streams',
    [],
  );
  lag.set(lagSeconds);
  const usage = gauge('notification_queue_usage_ratio', "Used share of Postgres's queue of notifications", []);
  usage.set(notificationQueueUsage);
  const used = 'Share of its timeout that an attempt has used, of the running one that has used most; above 1 it hangs';
  gauge('timeout_used_ratio', used, []).set(delays.timeoutUsed);
  gauge('due_jobs', `Jobs whose time has come and that are not ready yet, counted up to ${MAX_DEPTH}`, []).set(
    delays.overdueJobs,
  );
  gauge('due_oldest_seconds', 'How long the first of them has been due', []).set(delays.overdueSeconds);
  return registry;
}
