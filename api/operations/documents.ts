import type { z } from 'zod';
import type { listConverters, queueDepths, recentAbnormalEnds, recentThroughput } from '../../db/system.ts';
import { publicError } from '../../runtime/errors.ts';
import { formatTime } from '../http/fields.ts';
import type * as responses from './responses.ts';

type Rows<Query extends (...args: never[]) => Promise<unknown>> = Awaited<ReturnType<Query>>;

/** Converters, queues, and recent work. */
export function systemDocument(
  converters: Rows<typeof listConverters>,
  queues: Rows<typeof queueDepths>,
  minutes: Rows<typeof recentThroughput>,
  deaths: Rows<typeof recentAbnormalEnds>,
): z.output<typeof responses.system> {
  return {
    converters: converters.map((converter) => ({
      id: converter.id,
      name: converter.name,
      capacity: { cpu_units: converter.cpuUnits, memory_mb: converter.memoryMb },
      reserved: { cpu_units: converter.reservedCpuUnits, memory_mb: converter.reservedMemoryMb },
      running: converter.running,
      isolation: converter.isolation,
      started_at: formatTime(converter.startedAt),
      heartbeat_at: formatTime(converter.heartbeatAt),
    })),
    queues: queues.map((queue) => ({
      cpu_units: queue.cpuUnits,
      memory_mb: queue.memoryMb,
      depth: queue.depth,
      oldest_age_seconds: queue.oldestAgeSeconds,
    })),
    throughput: minutes.map(({ minute, completed, failed, peak_memory_mb }) => ({
      minute: formatTime(new Date(minute)),
      completed,
      failed,
      peak_memory_mb,
    })),
    deaths: deaths.map(({ job, attempt }) => ({
      job_id: job.id,
      type: job.type,
      upload_id: job.uploadId,
      attempt: attempt.attempt,
      converter: attempt.converter,
      memory_mb: attempt.memoryMb,
      peak_memory_mb: attempt.peakMemoryMb,
      at: formatTime(attempt.finishedAt ?? attempt.startedAt),
      error: attempt.error ?? publicError(undefined),
    })),
  };
}
