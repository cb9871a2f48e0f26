import { z } from 'zod';
import { failure, time } from '../http/fields.ts';

const resources = z.strictObject({ cpu_units: z.int(), memory_mb: z.int() });

export const system = z.strictObject({
  converters: z.array(
    z.strictObject({
      id: z.uuid(),
      name: z.string(),
      capacity: resources,
      reserved: resources,
      running: z.int(),
      isolation: z
        .strictObject({
          level: z.string().describe('`namespaces`, `process` or `memory`, strongest first'),
          layers: z.array(z.string()),
        })
        .nullable()
        .describe('The isolation of sandboxes from the machine of the converter'),
      started_at: time,
      heartbeat_at: time,
    }),
  ),
  queues: z.array(
    resources.extend({
      depth: z.int().describe('Ready jobs, at most one second old; 1000 means 1000 or more'),
      oldest_age_seconds: z.number(),
    }),
  ),
  throughput: z.array(
    z.strictObject({ minute: time, completed: z.int(), failed: z.int(), peak_memory_mb: z.int().nullable() }),
  ),
  deaths: z
    .array(
      z.strictObject({
        job_id: z.string(),
        type: z.string(),
        upload_id: z.uuid().nullable(),
        attempt: z.int(),
        converter: z.string(),
        memory_mb: z.int(),
        peak_memory_mb: z.int().nullable(),
        at: time,
        error: failure,
      }),
    )
    .describe('Attempts of the last day that exceeded their memory or timeout, or crashed; latest first'),
});

export const health = z.strictObject({
  status: z.literal('ok'),
  checks: z.record(z.string(), z.literal('ok')).optional(),
});
