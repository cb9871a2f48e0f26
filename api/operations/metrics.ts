import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry, register } from 'prom-client';
import type { Database } from '../../db/client.ts';
import { type EventsHealth, readEventsHealth } from '../../db/events.ts';
import { watchPool } from '../../db/metrics.ts';
import { isOutage } from '../../db/postgres-errors.ts';
import { listConverters, queueDepths, recentThroughput, worstDelays } from '../../db/system.ts';

/** Metrics of an API process: its own counters, and gauges from Postgres, which are the same in every API process. */

export const requestSeconds = new Histogram({
  name: 'sheetmill_http_request_seconds',
  help: 'HTTP request duration, long-poll waits included. Status aborted: the client disconnected before the answer',
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
  help: 'Delivery attempts of webhooks, by outcome: delivered, failed (retried later) or given_up',
  labelNames: ['outcome'],
});
export const scheduleRuns = new Counter({
  name: 'sheetmill_schedule_runs_total',
  help: 'Due runs of schedules, by outcome: submitted, failed, missed or overlapped',
  labelNames: ['outcome'],
});

/** Ready jobs of a shape, and overdue jobs, are counted up to this number. */
const MAX_DEPTH = 10_000;
/** Shapes with separate series, smallest first; the others are counted as `other`. */
const MAX_SHAPES = 64;

/** Collects the default metrics of the process, and those of its connection pool. */
export function watchProcess(db: Database): void {
  collectDefaultMetrics();
  watchPool(db.$client);
}

/** Gives all metrics in the text format of Prometheus; only those of the process while Postgres is unreachable. */
export async function readMetrics(db: Database): Promise<string> {
  const registry = new Registry();
  try {
    const [converters, queues, minutes, events, delays] = await Promise.all([
      listConverters(db),
      queueDepths(db, MAX_DEPTH),
      recentThroughput(db, 1),
      readEventsHealth(db),
      worstDelays(db, MAX_DEPTH),
    ]);
    addConverters(registry, converters);
    addQueues(registry, queues);
    addEvents(registry, events);
    addDelays(registry, delays);
    const peak = gauge(registry, 'peak_memory_mb', 'Highest peak memory of the attempts that ended in the last minute');
    peak.set(Math.max(0, ...minutes.map(({ peak_memory_mb }) => peak_memory_mb ?? 0)));
  } catch (error) {
    if (!isOutage(error)) throw error;
  }
  return `${await register.metrics()}\n${await registry.metrics()}`;
}

type Rows<Query extends (...args: never[]) => Promise<unknown>> = Awaited<ReturnType<Query>>;

function gauge<Label extends string>(
  registry: Registry,
  name: string,
  help: string,
  labelNames: readonly Label[] = [],
) {
  return new Gauge({ name: `sheetmill_${name}`, help, labelNames, registers: [registry] });
}

function addConverters(registry: Registry, converters: Rows<typeof listConverters>): void {
  const capacity = gauge(registry, 'capacity_memory_mb', 'Memory capacity of a converter', ['converter']);
  const reserved = gauge(registry, 'reserved_memory_mb', 'Memory reserved by its running jobs', ['converter']);
  for (const { name, memoryMb, reservedMemoryMb } of converters) {
    capacity.set({ converter: name }, memoryMb);
    reserved.set({ converter: name }, reservedMemoryMb);
  }
}

function addQueues(registry: Registry, queues: Rows<typeof queueDepths>): void {
  const shape = ['cpu_units', 'memory_mb'] as const;
  const depth = gauge(registry, 'queue_depth', `Ready jobs of a shape, counted up to ${MAX_DEPTH}`, shape);
  const age = gauge(registry, 'queue_oldest_seconds', 'Age of the oldest ready job of a shape', shape);
  for (const { cpuUnits, memoryMb, depth: jobs, oldestAgeSeconds } of queues.slice(0, MAX_SHAPES)) {
    depth.set({ cpu_units: cpuUnits, memory_mb: memoryMb }, jobs);
    age.set({ cpu_units: cpuUnits, memory_mb: memoryMb }, oldestAgeSeconds);
  }
  const others = queues.slice(MAX_SHAPES);
  if (others.length === 0) return;
  const other = { cpu_units: 'other', memory_mb: 'other' };
  depth.set(
    other,
    others.reduce((sum, { depth: jobs }) => sum + jobs, 0),
  );
  age.set(other, Math.max(...others.map(({ oldestAgeSeconds }) => oldestAgeSeconds)));
}

function addEvents(registry: Registry, { lagSeconds, notificationQueueUsage }: EventsHealth): void {
  const lag = gauge(registry, 'events_lag_seconds', 'Age of the oldest event that an open transaction delays');
  lag.set(lagSeconds);
  const usage = gauge(registry, 'notification_queue_usage_ratio', 'Used share of the notification queue of Postgres');
  usage.set(notificationQueueUsage);
}

function addDelays(registry: Registry, delays: Rows<typeof worstDelays>): void {
  const used = 'Highest used share of its timeout of a running attempt; above 1 the attempt hangs';
  gauge(registry, 'timeout_used_ratio', used).set(delays.timeoutUsed);
  const due = `Jobs that are due and not ready yet, counted up to ${MAX_DEPTH}`;
  gauge(registry, 'due_jobs', due).set(delays.overdueJobs);
  gauge(registry, 'due_oldest_seconds', 'Time since the first of them was due').set(delays.overdueSeconds);
}
