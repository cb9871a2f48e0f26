DROP INDEX "job_attempts_died";--> statement-breakpoint
ALTER TABLE "converters" ADD COLUMN "isolation" jsonb;--> statement-breakpoint
CREATE INDEX "job_attempts_died" ON "job_attempts" USING btree ("finished_at") WHERE job_attempts.status = 'failed' and job_attempts.error->>'code' in ('out_of_memory', 'timeout', 'converter_lost', 'sandbox_violation', 'internal');--> statement-breakpoint
ALTER TABLE "jobs" ADD CONSTRAINT "jobs_shape" CHECK (cpu_units between 0 and 1024 and memory_mb between 256 and 16384) NOT VALID;--> statement-breakpoint
ALTER TABLE "jobs" ADD CONSTRAINT "jobs_retry_policy" CHECK (attempt >= 0 and failures >= 0 and max_attempts >= 1 and timeout_seconds >= 1 and payload_bytes >= 0
        and initial_delay_seconds between 0 and 3600 and backoff_multiplier between 1 and 100) NOT VALID;--> statement-breakpoint
ALTER TABLE "pages" ADD CONSTRAINT "pages_size" CHECK (page >= 1 and (width is null or (width >= 1 and height >= 1 and bytes >= 1))) NOT VALID;--> statement-breakpoint
-- by hand: rows of before may break these constraints, which are therefore added NOT VALID and hold once the rows are mended.
UPDATE "jobs" SET
	cpu_units = least(greatest(cpu_units, 0), 1024), memory_mb = least(greatest(memory_mb, 256), 16384),
	attempt = greatest(attempt, 0), failures = greatest(failures, 0), max_attempts = greatest(max_attempts, 1),
	timeout_seconds = greatest(timeout_seconds, 1), payload_bytes = greatest(payload_bytes, 0),
	initial_delay_seconds = least(greatest(initial_delay_seconds, 0), 3600), backoff_multiplier = least(greatest(backoff_multiplier, 1), 100)
WHERE NOT (cpu_units between 0 and 1024 and memory_mb between 256 and 16384 and attempt >= 0 and failures >= 0 and max_attempts >= 1
	and timeout_seconds >= 1 and payload_bytes >= 0 and initial_delay_seconds between 0 and 3600 and backoff_multiplier between 1 and 100);--> statement-breakpoint
ALTER TABLE "jobs" VALIDATE CONSTRAINT "jobs_shape";--> statement-breakpoint
ALTER TABLE "jobs" VALIDATE CONSTRAINT "jobs_retry_policy";
