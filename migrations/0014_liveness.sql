CREATE TABLE "maintenance" (
	"id" integer PRIMARY KEY DEFAULT 1 NOT NULL,
	"last_seen_at" timestamp with time zone NOT NULL,
	"watched_since" timestamp with time zone NOT NULL,
	CONSTRAINT "maintenance_one_row" CHECK (id = 1)
);
--> statement-breakpoint
DROP INDEX "jobs_due";--> statement-breakpoint
ALTER TABLE "job_attempts" ADD COLUMN "waited_at" timestamp with time zone;--> statement-breakpoint
CREATE INDEX "jobs_due" ON "jobs" USING btree ("priority","due_at") WHERE status in ('scheduled', 'retrying');