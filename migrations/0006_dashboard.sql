CREATE EXTENSION IF NOT EXISTS pg_trgm;--> statement-breakpoint
CREATE INDEX "job_attempts_died" ON "job_attempts" USING btree ("finished_at") WHERE job_attempts.status = 'failed' and job_attempts.error->>'code' in ('out_of_memory', 'timeout', 'converter_lost', 'internal');--> statement-breakpoint
CREATE INDEX "originals_filename" ON "originals" USING gin ("filename" gin_trgm_ops);