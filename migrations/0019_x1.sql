DROP INDEX "job_attempts_died";--> statement-breakpoint
CREATE INDEX "job_attempts_died" ON "job_attempts" USING btree ("finished_at") WHERE job_attempts.status = 'failed' and job_attempts.error->>'code' in ('out_of_memory', 'timeout', 'converter_lost', 'sandbox_violation', 'internal');--> statement-breakpoint
ALTER TABLE "jobs" ADD CONSTRAINT "jobs_shape" CHECK (cpu_units between 0 and 1024 and memory_mb between 256 and 16384);--> statement-breakpoint
ALTER TABLE "jobs" ADD CONSTRAINT "jobs_retry_policy" CHECK (attempt >= 0 and failures >= 0 and max_attempts >= 1 and timeout_seconds >= 1 and payload_bytes >= 0
        and initial_delay_seconds between 0 and 3600 and backoff_multiplier between 1 and 100);--> statement-breakpoint
ALTER TABLE "pages" ADD CONSTRAINT "pages_size" CHECK (page >= 1 and (width is null or (width >= 1 and height >= 1 and bytes >= 1)));