CREATE TABLE "events" (
	"id" bigserial PRIMARY KEY NOT NULL,
	"xact" "xid8" DEFAULT pg_current_xact_id() NOT NULL,
	"at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"kind" text NOT NULL,
	"job_id" text,
	"upload_id" uuid,
	"type" text,
	"status" text,
	"attempt" integer,
	"progress" jsonb,
	"level" text DEFAULT 'info' NOT NULL,
	"message" text,
	"data" jsonb
);
--> statement-breakpoint
CREATE TABLE "idempotency_keys" (
	"owner" text NOT NULL,
	"key" text NOT NULL,
	"locked_until" timestamp with time zone NOT NULL,
	"fingerprint" text,
	"answer" json,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "idempotency_keys_owner_key_pk" PRIMARY KEY("owner","key")
);
--> statement-breakpoint
CREATE TABLE "job_dependencies" (
	"job_id" text NOT NULL,
	"depends_on" text NOT NULL,
	CONSTRAINT "job_dependencies_job_id_depends_on_pk" PRIMARY KEY("job_id","depends_on")
);
--> statement-breakpoint
CREATE TABLE "throughput" (
	"minute" timestamp with time zone NOT NULL,
	"converter_id" uuid NOT NULL,
	"completed" integer NOT NULL,
	"failed" integer NOT NULL,
	CONSTRAINT "throughput_minute_converter_id_pk" PRIMARY KEY("minute","converter_id")
);
--> statement-breakpoint
ALTER TABLE "jobs" DROP CONSTRAINT "jobs_due_time";--> statement-breakpoint
DROP INDEX "jobs_ready";--> statement-breakpoint
DROP INDEX "jobs_due";--> statement-breakpoint
DROP INDEX "jobs_upload";--> statement-breakpoint
ALTER TABLE "converters" ADD COLUMN "drains_until" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "jobs" ADD COLUMN "failures" integer DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "jobs" ADD COLUMN "due_at" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "jobs" ADD COLUMN "ready_at" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "jobs" ADD COLUMN "pending_dependencies" integer DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "jobs" ADD COLUMN "owner" text;--> statement-breakpoint
ALTER TABLE "jobs" ADD COLUMN "fingerprint" text;--> statement-breakpoint
ALTER TABLE "jobs" ADD COLUMN "progress" jsonb;--> statement-breakpoint
UPDATE "jobs" SET "due_at" = CASE WHEN "status" IN ('scheduled', 'retrying') THEN "run_at" END, "run_at" = null,
	"ready_at" = CASE WHEN "status" = 'ready' THEN "created_at" END,
	"failures" = CASE WHEN "status" = 'running' THEN greatest("attempt" - 1, 0) ELSE "attempt" END
	WHERE "status" IN ('scheduled', 'ready', 'running', 'retrying');--> statement-breakpoint
ALTER TABLE "job_dependencies" ADD CONSTRAINT "job_dependencies_job_id_jobs_id_fk" FOREIGN KEY ("job_id") REFERENCES "public"."jobs"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "job_dependencies" ADD CONSTRAINT "job_dependencies_depends_on_jobs_id_fk" FOREIGN KEY ("depends_on") REFERENCES "public"."jobs"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "events_order" ON "events" USING btree ("xact","id");--> statement-breakpoint
CREATE INDEX "events_job" ON "events" USING btree ("job_id","id") WHERE job_id is not null;--> statement-breakpoint
CREATE INDEX "events_upload" ON "events" USING btree ("upload_id","id") WHERE upload_id is not null;--> statement-breakpoint
CREATE INDEX "idempotency_keys_age" ON "idempotency_keys" USING btree ("created_at");--> statement-breakpoint
CREATE INDEX "job_dependencies_dependants" ON "job_dependencies" USING btree ("depends_on","job_id");--> statement-breakpoint
CREATE INDEX "jobs_turns" ON "jobs" USING btree ("priority","rank") WHERE status = 'ready' and owner is not null;--> statement-breakpoint
CREATE INDEX "jobs_owner" ON "jobs" USING btree ("owner","priority","created_at" DESC NULLS FIRST,"rank") WHERE owner is not null;--> statement-breakpoint
CREATE UNIQUE INDEX "jobs_queue" ON "jobs" USING btree ("queue_id") WHERE queue_id is not null;--> statement-breakpoint
CREATE INDEX "jobs_newest" ON "jobs" USING btree ("status","priority","created_at","id");--> statement-breakpoint
CREATE INDEX "jobs_type" ON "jobs" USING btree ("type","status","priority","created_at","id");--> statement-breakpoint
CREATE INDEX "jobs_ready" ON "jobs" USING btree ("cpu_units","memory_mb","rank" DESC NULLS FIRST,"ready_at") WHERE status = 'ready';--> statement-breakpoint
CREATE INDEX "jobs_due" ON "jobs" USING btree ("due_at") WHERE status in ('scheduled', 'retrying');--> statement-breakpoint
CREATE INDEX "jobs_upload" ON "jobs" USING btree ("upload_id") WHERE upload_id is not null;--> statement-breakpoint
ALTER TABLE "jobs" ADD CONSTRAINT "jobs_ready_at" CHECK (status <> 'ready' or ready_at is not null);--> statement-breakpoint
ALTER TABLE "jobs" ADD CONSTRAINT "jobs_pending" CHECK (pending_dependencies >= 0 and pending_children >= 0 and (status <> 'blocked' or pending_dependencies > 0)
        and (pending_dependencies = 0 or status in ('blocked', 'failed', 'cancelled')));--> statement-breakpoint
ALTER TABLE "jobs" ADD CONSTRAINT "jobs_due_time" CHECK ((status in ('scheduled', 'retrying')) = (due_at is not null));