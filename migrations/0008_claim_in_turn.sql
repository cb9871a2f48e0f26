-- incompatible: converters of earlier versions fetch from queues that this removes.
CREATE TABLE "fair_shares" (
	"owner" text PRIMARY KEY NOT NULL,
	"turns" bigint NOT NULL,
	"used_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
ALTER TABLE "jobs" DROP CONSTRAINT "jobs_queue_id";--> statement-breakpoint
DROP INDEX "jobs_turns";--> statement-breakpoint
DROP INDEX "jobs_owner";--> statement-breakpoint
DROP INDEX "jobs_ready";--> statement-breakpoint
ALTER TABLE "converters" ADD COLUMN "drained_at" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "jobs" ADD COLUMN "arrived_at" timestamp with time zone;--> statement-breakpoint
UPDATE "jobs" SET "arrived_at" = coalesce("ready_at", "created_at"),
	"queue_id" = CASE WHEN "status" = 'ready' THEN "queue_id" END,
	"converter_id" = CASE WHEN "status" = 'running' AND "pending_children" = 0 THEN "converter_id" END;--> statement-breakpoint
ALTER TABLE "jobs" ALTER COLUMN "arrived_at" SET NOT NULL;--> statement-breakpoint
CREATE INDEX "fair_shares_turns" ON "fair_shares" USING btree ("turns");--> statement-breakpoint
CREATE INDEX "jobs_ready" ON "jobs" USING btree ("priority",coalesce(owner, ''),"type","cpu_units","memory_mb","arrived_at","id") WHERE status = 'ready';--> statement-breakpoint
ALTER TABLE "jobs" DROP COLUMN "rank";--> statement-breakpoint
ALTER TABLE "jobs" ADD CONSTRAINT "jobs_converter" CHECK ((converter_id is not null) = (status = 'running' and pending_children = 0));--> statement-breakpoint
ALTER TABLE "jobs" ADD CONSTRAINT "jobs_queue_id" CHECK ((queue_id is not null) = (status = 'ready'));--> statement-breakpoint
CREATE OR REPLACE FUNCTION tell_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	told bigint;
	ready boolean;
	cancelled boolean;
BEGIN
	IF TG_OP = 'INSERT' THEN
		INSERT INTO events (kind, job_id, upload_id, type, status, attempt, data)
			SELECT 'job', id, upload_id, type, status, attempt, error FROM changed ORDER BY arrived_at;
		SELECT count(*), bool_or(status = 'ready'), false INTO told, ready, cancelled FROM changed;
	ELSE
		INSERT INTO events (kind, job_id, upload_id, type, status, attempt, progress, level, data)
			SELECT 'job', id, now.upload_id, now.type, now.status, now.attempt, now.progress,
				CASE WHEN now.status = 'failed' THEN 'error' WHEN now.status = 'retrying' THEN 'warn' ELSE 'info' END,
				CASE WHEN now.status IN ('failed', 'retrying') THEN now.error END
			FROM changed now JOIN before USING (id)
			WHERE (now.status, now.attempt) <> (before.status, before.attempt) OR now.progress IS DISTINCT FROM before.progress;
		GET DIAGNOSTICS told = ROW_COUNT;
		SELECT bool_or(now.status = 'ready'), bool_or(before.status = 'running' AND now.status = 'cancelled')
			INTO ready, cancelled FROM changed now JOIN before USING (id);
	END IF;
	IF told > 0 THEN PERFORM pg_notify('sheetmill_events', ''); END IF;
	IF ready THEN PERFORM pg_notify('sheetmill_ready', ''); END IF;
	IF cancelled THEN PERFORM pg_notify('sheetmill_cancelled', ''); END IF;
	RETURN NULL;
END $$;
