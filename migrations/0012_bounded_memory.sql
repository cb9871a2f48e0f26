CREATE INDEX "jobs_owner_type" ON "jobs" USING btree ("owner","type","status","priority","created_at","id") WHERE owner is not null;--> statement-breakpoint
ALTER TABLE "jobs" DROP COLUMN "version";--> statement-breakpoint
ALTER TABLE "uploads" DROP COLUMN "version";--> statement-breakpoint
-- by hand: the columns are gone, and with them what counted them
DROP TRIGGER uploads_version ON uploads;--> statement-breakpoint
DROP TRIGGER jobs_version ON jobs;--> statement-breakpoint
DROP FUNCTION count_version();
