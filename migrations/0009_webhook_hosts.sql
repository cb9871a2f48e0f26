CREATE TABLE "webhook_hosts" (
	"host" text PRIMARY KEY NOT NULL,
	"slow" boolean NOT NULL,
	"failures" integer NOT NULL,
	"failing_since" timestamp with time zone,
	"retry_at" timestamp with time zone,
	"changed_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
ALTER TABLE "webhooks" ADD COLUMN "host" text DEFAULT '' NOT NULL;--> statement-breakpoint
ALTER TABLE "webhooks" ADD COLUMN "due_at" timestamp with time zone DEFAULT now() NOT NULL;--> statement-breakpoint
ALTER TABLE "webhooks" ADD COLUMN "locked_until" timestamp with time zone;--> statement-breakpoint
CREATE INDEX "webhook_hosts_changed" ON "webhook_hosts" USING btree ("changed_at");--> statement-breakpoint
CREATE INDEX "webhooks_due" ON "webhooks" USING btree ("host","due_at") WHERE status = 'pending';--> statement-breakpoint
CREATE INDEX "webhooks_locked" ON "webhooks" USING btree ("host","locked_until") WHERE locked_until is not null;--> statement-breakpoint
-- by hand
UPDATE "webhooks" SET "host" = lower(coalesce(substring("url" from '^[^:]*:[/\\]*([^/\\?#]+)'), '')) WHERE "status" = 'pending';
--> statement-breakpoint
-- Webhooks were sent by jobs of pg-boss until now: each row takes over the time of its next try. There is no such schema in a new database.
DO $$
BEGIN
	IF to_regclass('pgboss.job') IS NOT NULL THEN
		EXECUTE $sql$
			UPDATE webhooks SET due_at = queued.start_after FROM pgboss.job queued
			WHERE queued.name = 'webhooks' AND queued.id = webhooks.id AND webhooks.status = 'pending' AND queued.state < 'completed'$sql$;
		EXECUTE $sql$DELETE FROM pgboss.job WHERE name = 'webhooks'$sql$;
	END IF;
END $$;
--> statement-breakpoint
-- Retention deletes as many rows as arrive. By default dead rows are removed once they are a fifth of a table, which at ten million
-- rows is millions of dead entries at the old end of each index, where retention looks. Vacuuming reads all indexes of a table:
-- twice as late for those with many of them.
ALTER TABLE "jobs" SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
--> statement-breakpoint
ALTER TABLE "uploads" SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
--> statement-breakpoint
ALTER TABLE "job_attempts" SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02);
--> statement-breakpoint
ALTER TABLE "pages" SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02);
--> statement-breakpoint
ALTER TABLE "webhooks" SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02);
--> statement-breakpoint
ALTER TABLE "idempotency_keys" SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02);
