CREATE TABLE "bulk_operations" (
	"id" uuid PRIMARY KEY NOT NULL,
	"owner" text,
	"action" text NOT NULL,
	"filter" jsonb NOT NULL,
	"status" text DEFAULT 'running' NOT NULL,
	"count" integer NOT NULL,
	"done" integer DEFAULT 0 NOT NULL,
	"skipped" integer DEFAULT 0 NOT NULL,
	"cursor" text DEFAULT '' NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"finished_at" timestamp with time zone,
	CONSTRAINT "bulk_operations_end" CHECK ((status = 'running') = (finished_at is null))
);
--> statement-breakpoint
CREATE TABLE "pending_outcomes" (
	"job_id" text PRIMARY KEY NOT NULL,
	"outcome" text,
	"due_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
--> statement-breakpoint
ALTER TABLE "job_dependencies" DROP CONSTRAINT "job_dependencies_depends_on_jobs_id_fk";
--> statement-breakpoint
ALTER TABLE "job_dependencies" ADD COLUMN "outcome" text;--> statement-breakpoint
ALTER TABLE "jobs" ADD COLUMN "run_on" text DEFAULT 'success' NOT NULL;--> statement-breakpoint
CREATE UNIQUE INDEX "bulk_operations_running" ON "bulk_operations" USING btree (coalesce(owner, ''),"action","filter") WHERE status = 'running';--> statement-breakpoint
CREATE INDEX "bulk_operations_finished" ON "bulk_operations" USING btree ("finished_at") WHERE finished_at is not null;--> statement-breakpoint
CREATE INDEX "pending_outcomes_due" ON "pending_outcomes" USING btree ("due_at");--> statement-breakpoint
ALTER TABLE "job_dependencies" ADD CONSTRAINT "job_dependencies_outcome_known" CHECK (outcome is null or outcome in ('completed', 'failed', 'cancelled', 'deleted'));--> statement-breakpoint
ALTER TABLE "jobs" ADD CONSTRAINT "jobs_run_on_known" CHECK (run_on in ('success', 'failure', 'always'));--> statement-breakpoint
-- by hand
-- The transaction that inserts an edge holds the prerequisite FOR SHARE: its status cannot change in between.
CREATE FUNCTION set_first_outcome() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	SELECT status INTO NEW.outcome FROM jobs WHERE id = NEW.depends_on AND finished_at IS NOT NULL;
	RETURN NEW;
END $$;
--> statement-breakpoint
CREATE TRIGGER job_dependencies_outcome BEFORE INSERT ON job_dependencies FOR EACH ROW EXECUTE FUNCTION set_first_outcome();
--> statement-breakpoint
-- Every end, every new start and every deletion of a prerequisite is queued for its dependants, whatever makes it.
CREATE FUNCTION queue_outcome() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	now_is text := CASE WHEN TG_OP = 'UPDATE' THEN CASE WHEN NEW.finished_at IS NOT NULL THEN NEW.status END
		WHEN OLD.finished_at IS NOT NULL THEN OLD.status ELSE 'deleted' END;
BEGIN
	-- Waits for a step that passes on the outcome before this one.
	UPDATE pending_outcomes SET outcome = now_is WHERE job_id = OLD.id;
	IF NOT FOUND THEN
		INSERT INTO pending_outcomes (job_id, outcome) SELECT OLD.id, now_is WHERE EXISTS (
			SELECT FROM job_dependencies WHERE depends_on = OLD.id AND outcome IS DISTINCT FROM now_is);
	END IF;
	RETURN NULL;
END $$;
--> statement-breakpoint
CREATE TRIGGER jobs_outcome AFTER UPDATE ON jobs FOR EACH ROW
	WHEN (OLD.status <> NEW.status AND (OLD.finished_at IS NOT NULL OR NEW.finished_at IS NOT NULL))
	EXECUTE FUNCTION queue_outcome();
--> statement-breakpoint
CREATE TRIGGER jobs_deleted_outcome AFTER DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION queue_outcome();
--> statement-breakpoint
UPDATE job_dependencies SET outcome = prerequisite.status
	FROM jobs prerequisite, jobs dependant
	WHERE prerequisite.id = depends_on AND prerequisite.finished_at IS NOT NULL
		AND dependant.id = job_id AND dependant.status <> 'blocked';
--> statement-breakpoint
-- Jobs that wait are counted again by the leader.
INSERT INTO pending_outcomes (job_id, outcome)
	SELECT DISTINCT prerequisite.id, prerequisite.status
	FROM job_dependencies JOIN jobs dependant ON dependant.id = job_id JOIN jobs prerequisite ON prerequisite.id = depends_on
	WHERE dependant.status = 'blocked' AND prerequisite.finished_at IS NOT NULL;
