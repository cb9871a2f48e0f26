CREATE TABLE "converters" (
	"id" uuid PRIMARY KEY NOT NULL,
	"name" text NOT NULL,
	"cpu_units" integer NOT NULL,
	"memory_mb" integer NOT NULL,
	"status" text DEFAULT 'live' NOT NULL,
	"started_at" timestamp with time zone DEFAULT now() NOT NULL,
	"heartbeat_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "job_attempts" (
	"job_id" text NOT NULL,
	"attempt" integer NOT NULL,
	"status" text DEFAULT 'running' NOT NULL,
	"converter_id" uuid NOT NULL,
	"converter" text NOT NULL,
	"cpu_units" integer NOT NULL,
	"memory_mb" integer NOT NULL,
	"peak_memory_mb" integer,
	"error" jsonb,
	"started_at" timestamp with time zone DEFAULT now() NOT NULL,
	"finished_at" timestamp with time zone,
	CONSTRAINT "job_attempts_job_id_attempt_pk" PRIMARY KEY("job_id","attempt")
);
--> statement-breakpoint
CREATE TABLE "jobs" (
	"id" text PRIMARY KEY NOT NULL,
	"queue_id" uuid,
	"type" text NOT NULL,
	"priority" text NOT NULL,
	"rank" integer NOT NULL,
	"payload" jsonb NOT NULL,
	"cpu_units" integer NOT NULL,
	"memory_mb" integer NOT NULL,
	"status" text NOT NULL,
	"attempt" integer DEFAULT 0 NOT NULL,
	"max_attempts" integer NOT NULL,
	"initial_delay_seconds" real NOT NULL,
	"backoff_multiplier" real NOT NULL,
	"timeout_seconds" integer NOT NULL,
	"run_at" timestamp with time zone,
	"converter_id" uuid,
	"upload_id" uuid,
	"original" integer,
	"parent_id" text,
	"pending_children" integer DEFAULT 0 NOT NULL,
	"result" jsonb,
	"error" jsonb,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"started_at" timestamp with time zone,
	"finished_at" timestamp with time zone,
	CONSTRAINT "jobs_status_known" CHECK (status in ('scheduled', 'blocked', 'ready', 'running', 'retrying', 'completed', 'failed', 'cancelled')),
	CONSTRAINT "jobs_queue_id" CHECK ((queue_id is not null) = (status = 'ready' or (status = 'running' and pending_children = 0))),
	CONSTRAINT "jobs_end" CHECK ((status in ('completed', 'failed', 'cancelled')) = (finished_at is not null)),
	CONSTRAINT "jobs_due_time" CHECK (status not in ('scheduled', 'retrying') or run_at is not null)
);
--> statement-breakpoint
CREATE TABLE "originals" (
	"upload_id" uuid NOT NULL,
	"original" integer NOT NULL,
	"filename" text,
	"media_type" text NOT NULL,
	"bytes" bigint NOT NULL,
	"sha256" text NOT NULL,
	"path" text NOT NULL,
	"page_count" integer,
	"selected" jsonb,
	"error" jsonb,
	CONSTRAINT "originals_upload_id_original_pk" PRIMARY KEY("upload_id","original")
);
--> statement-breakpoint
CREATE TABLE "pages" (
	"upload_id" uuid NOT NULL,
	"original" integer NOT NULL,
	"page" integer NOT NULL,
	"status" text NOT NULL,
	"path" text,
	"width" integer,
	"height" integer,
	"bytes" integer,
	"sha256" text,
	"dpi" real,
	"reduced" text,
	"engine" text,
	"error" jsonb,
	CONSTRAINT "pages_upload_id_original_page_pk" PRIMARY KEY("upload_id","original","page"),
	CONSTRAINT "pages_outcome" CHECK (case status when 'completed' then path is not null and width < 3500 and height < 3500 and error is null
        when 'failed' then path is null and error is not null else false end)
);
--> statement-breakpoint
CREATE TABLE "uploads" (
	"id" uuid PRIMARY KEY NOT NULL,
	"status" text DEFAULT 'queued' NOT NULL,
	"priority" text NOT NULL,
	"dpi" integer NOT NULL,
	"page_selection" text,
	"password" text,
	"pages_done" integer DEFAULT 0 NOT NULL,
	"pages_total" integer,
	"error" jsonb,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"finished_at" timestamp with time zone,
	"expires_at" timestamp with time zone,
	CONSTRAINT "uploads_status_known" CHECK (status in ('queued', 'processing', 'completed', 'failed', 'cancelled')),
	CONSTRAINT "uploads_end" CHECK ((status in ('completed', 'failed', 'cancelled')) = (finished_at is not null) and (finished_at is null or password is null))
);
--> statement-breakpoint
ALTER TABLE "job_attempts" ADD CONSTRAINT "job_attempts_job_id_jobs_id_fk" FOREIGN KEY ("job_id") REFERENCES "public"."jobs"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "jobs" ADD CONSTRAINT "jobs_upload_id_uploads_id_fk" FOREIGN KEY ("upload_id") REFERENCES "public"."uploads"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "originals" ADD CONSTRAINT "originals_upload_id_uploads_id_fk" FOREIGN KEY ("upload_id") REFERENCES "public"."uploads"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "pages" ADD CONSTRAINT "pages_upload_id_uploads_id_fk" FOREIGN KEY ("upload_id") REFERENCES "public"."uploads"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "jobs_ready" ON "jobs" USING btree ("cpu_units","memory_mb","rank" DESC NULLS LAST,"created_at") WHERE status = 'ready';--> statement-breakpoint
CREATE INDEX "jobs_due" ON "jobs" USING btree ("run_at") WHERE status in ('scheduled', 'retrying');--> statement-breakpoint
CREATE INDEX "jobs_running" ON "jobs" USING btree ("converter_id") WHERE status = 'running';--> statement-breakpoint
CREATE INDEX "jobs_upload" ON "jobs" USING btree ("upload_id");--> statement-breakpoint
CREATE INDEX "jobs_parent" ON "jobs" USING btree ("parent_id") WHERE parent_id is not null;--> statement-breakpoint
CREATE INDEX "uploads_status" ON "uploads" USING btree ("status","id");