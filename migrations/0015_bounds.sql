CREATE TABLE "unique_keys" (
	"owner" text NOT NULL,
	"type" text NOT NULL,
	"key" text NOT NULL,
	"job_id" text NOT NULL,
	"expires_at" timestamp with time zone NOT NULL,
	CONSTRAINT "unique_keys_owner_type_key_pk" PRIMARY KEY("owner","type","key")
);
--> statement-breakpoint
CREATE TABLE "upload_archives" (
	"upload_id" uuid NOT NULL,
	"owner" text NOT NULL,
	"job_id" text NOT NULL,
	CONSTRAINT "upload_archives_upload_id_owner_pk" PRIMARY KEY("upload_id","owner")
);
--> statement-breakpoint
ALTER TABLE "jobs" ADD COLUMN "payload_bytes" integer DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "unique_keys" ADD CONSTRAINT "unique_keys_job_id_jobs_id_fk" FOREIGN KEY ("job_id") REFERENCES "public"."jobs"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "upload_archives" ADD CONSTRAINT "upload_archives_upload_id_uploads_id_fk" FOREIGN KEY ("upload_id") REFERENCES "public"."uploads"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "upload_archives" ADD CONSTRAINT "upload_archives_job_id_jobs_id_fk" FOREIGN KEY ("job_id") REFERENCES "public"."jobs"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "unique_keys_job" ON "unique_keys" USING btree ("job_id");--> statement-breakpoint
CREATE INDEX "unique_keys_expires" ON "unique_keys" USING btree ("expires_at");--> statement-breakpoint
CREATE INDEX "upload_archives_job" ON "upload_archives" USING btree ("job_id");--> statement-breakpoint
CREATE INDEX "jobs_waiting" ON "jobs" USING btree (coalesce(owner, ''),"status","cpu_units","memory_mb","payload_bytes") WHERE status in ('scheduled', 'blocked', 'ready', 'retrying');