import type { Json } from '../support/service.ts';

/** One execution of a job, with its times in milliseconds. */
export interface Run {
  job: string;
  cpu: number;
  memory: number;
  from: number;
  to: number;
}

/** Every attempt of these jobs (as `GET /jobs/{id}` gives them), in the order in which they started. */
export function runsOf(jobs: Json[]): Run[] {
  return jobs
    .flatMap(({ job_id, attempts }) =>
      attempts.map((attempt: Json) => ({
        job: job_id,
        cpu: attempt.cpu_units,
        memory: attempt.memory_mb,
        from: Date.parse(attempt.started_at),
        to: Date.parse(attempt.finished_at),
      })),
    )
    .sort((a, b) => a.from - b.from);
}

export function overlap(a: Run | undefined, b: Run | undefined): boolean {
  return a !== undefined && b !== undefined && a.from < b.to && b.from < a.to;
}

/** The reservations between each start or end of an attempt and the next. */
export function reservations(runs: Run[]): { at: number; cpu: number; memory: number; jobs: string[] }[] {
  const moments = [...new Set(runs.flatMap(({ from, to }) => [from, to]))].sort((a, b) => a - b);
  return moments.map((at) => {
    const active = runs.filter(({ from, to }) => from <= at && at < to);
    return {
      at,
      cpu: active.reduce((sum, { cpu }) => sum + cpu, 0),
      memory: active.reduce((sum, { memory }) => sum + memory, 0),
      jobs: active.map(({ job }) => job),
    };
  });
}
