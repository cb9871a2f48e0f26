CREATE TABLE "job_types" (
	"type" text PRIMARY KEY NOT NULL,
	"paused_at" timestamp with time zone,
	"per_type" integer,
	"per_key" integer,
	"rate_limit" integer,
	"rate_seconds" integer,
	"is_relimited" boolean DEFAULT false NOT NULL,
	"limited_at" timestamp with time zone DEFAULT now() NOT NULL,
	"tokens" double precision DEFAULT 0 NOT NULL,
	"refilled_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "job_types_limits" CHECK (per_type >= 1 and per_key >= 1),
	CONSTRAINT "job_types_rate" CHECK ((rate_limit is null) = (rate_seconds is null) and rate_limit >= 1 and rate_seconds >= 1 and tokens >= 0)
);
--> statement-breakpoint
DROP INDEX "jobs_ready";--> statement-breakpoint
ALTER TABLE "jobs" ADD COLUMN "concurrency_key" text;--> statement-breakpoint
ALTER TABLE "jobs" ADD COLUMN "throttled" boolean DEFAULT false NOT NULL;--> statement-breakpoint
CREATE INDEX "jobs_key_open" ON "jobs" USING btree ("type","concurrency_key") WHERE concurrency_key is not null and not throttled and status in ('ready', 'running');--> statement-breakpoint
CREATE INDEX "jobs_key_throttled" ON "jobs" USING btree ("type","concurrency_key","priority","arrived_at","id") WHERE throttled;--> statement-breakpoint
CREATE INDEX "jobs_ready" ON "jobs" USING btree ("throttled","priority",coalesce(owner, ''),"type","cpu_units","memory_mb","arrived_at","id") WHERE status = 'ready';--> statement-breakpoint
ALTER TABLE "jobs" ADD CONSTRAINT "jobs_throttled" CHECK (not throttled or (status = 'ready' and concurrency_key is not null));--> statement-breakpoint
-- by hand
-- Of one key, the job with the earliest turn starts first: an urgent job counts as having waited for so many hours already.
CREATE FUNCTION turn_of(priority text, arrived_at timestamptz) RETURNS timestamptz LANGUAGE sql STABLE AS $$
	SELECT arrived_at - make_interval(hours => CASE priority WHEN 'critical' THEN 24 WHEN 'high' THEN 2 WHEN 'normal' THEN 1 ELSE 0 END)
$$;--> statement-breakpoint
-- Keeps the jobs of a key that run, or are ready and not throttled, at the key's limit while others of it are throttled.
-- One transaction at a time does that for a key. Rows that others have locked are passed over, so that none waits here.
-- Gives how many jobs it changed, at most 1000: the triggers on jobs become slow for more.
CREATE FUNCTION admit_jobs(of_type text, of_key text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	most int;
	active int;
	moved int := 0;
	last record;
	next record;
BEGIN
	SELECT per_key INTO most FROM job_types WHERE type = of_type FOR SHARE;
	PERFORM pg_advisory_xact_lock(7311004, hashtext(of_type || ' ' || of_key));
	LOOP
		SELECT count(*) INTO active FROM jobs
			WHERE type = of_type AND concurrency_key = of_key AND NOT throttled AND status IN ('ready', 'running');
		IF most IS NULL OR active < most THEN
			UPDATE jobs SET throttled = false WHERE id = ANY (ARRAY(
				SELECT first.id FROM unnest(ARRAY['critical', 'high', 'normal', 'low']) level, LATERAL (
					SELECT id, turn_of(priority, arrived_at) AS turn FROM jobs
					WHERE throttled AND type = of_type AND concurrency_key = of_key AND priority = level
					ORDER BY arrived_at, id LIMIT least(most - active, 1000) FOR UPDATE SKIP LOCKED) first
				ORDER BY turn, id LIMIT least(most - active, 1000)));
			GET DIAGNOSTICS moved = ROW_COUNT;
			RETURN moved;
		END IF;
		IF active > most THEN
			UPDATE jobs SET throttled = true WHERE id = ANY (ARRAY(
				SELECT id FROM jobs
				WHERE type = of_type AND concurrency_key = of_key AND NOT throttled AND status = 'ready'
				ORDER BY turn_of(priority, arrived_at) DESC, id DESC LIMIT least(active - most, 1000) FOR UPDATE SKIP LOCKED));
			GET DIAGNOSTICS moved = ROW_COUNT;
			RETURN moved;
		END IF;
		-- A job that is more urgent than one that was admitted, and has not started, takes its place.
		SELECT id, turn_of(priority, arrived_at) AS turn INTO last FROM jobs
			WHERE type = of_type AND concurrency_key = of_key AND NOT throttled AND status = 'ready'
			ORDER BY turn_of(priority, arrived_at) DESC, id DESC LIMIT 1 FOR UPDATE SKIP LOCKED;
		EXIT WHEN NOT FOUND;
		SELECT first.id, first.turn INTO next FROM unnest(ARRAY['critical', 'high', 'normal', 'low']) level, LATERAL (
				SELECT id, turn_of(priority, arrived_at) AS turn FROM jobs
				WHERE throttled AND type = of_type AND concurrency_key = of_key AND priority = level
				ORDER BY arrived_at, id LIMIT 1 FOR UPDATE SKIP LOCKED) first
			ORDER BY turn, id LIMIT 1;
		EXIT WHEN NOT FOUND OR next.turn >= last.turn;
		UPDATE jobs SET throttled = (id = last.id) WHERE id IN (last.id, next.id);
		moved := moved + 2;
	END LOOP;
	RETURN moved;
END $$;--> statement-breakpoint
CREATE FUNCTION throttle_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	-- A job that becomes ready is throttled until admit_jobs finds room for it.
	IF NEW.status <> 'ready' THEN
		NEW.throttled := false;
	ELSIF TG_OP = 'INSERT' OR OLD.status <> 'ready' THEN
		NEW.throttled := true;
	END IF;
	RETURN NEW;
END $$;--> statement-breakpoint
CREATE TRIGGER jobs_throttle BEFORE INSERT OR UPDATE ON jobs FOR EACH ROW
	WHEN (NEW.concurrency_key IS NOT NULL) EXECUTE FUNCTION throttle_job();--> statement-breakpoint
CREATE FUNCTION admit_changed_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	key record;
BEGIN
	IF TG_OP = 'INSERT' THEN
		FOR key IN SELECT DISTINCT type, concurrency_key FROM changed WHERE throttled ORDER BY type, concurrency_key LOOP
			PERFORM admit_jobs(key.type, key.concurrency_key);
		END LOOP;
	ELSIF EXISTS (SELECT FROM changed WHERE concurrency_key IS NOT NULL) THEN
		-- A job that starts leaves as much room as before.
		FOR key IN SELECT DISTINCT now.type, now.concurrency_key FROM changed now JOIN before USING (id)
			WHERE now.concurrency_key IS NOT NULL AND (now.status, now.priority) <> (before.status, before.priority)
				AND (now.status = 'ready' OR before.status IN ('ready', 'running')) AND now.status <> 'running'
			ORDER BY type, concurrency_key
		LOOP
			PERFORM admit_jobs(key.type, key.concurrency_key);
		END LOOP;
	END IF;
	RETURN NULL;
END $$;--> statement-breakpoint
CREATE TRIGGER jobs_admit_new AFTER INSERT ON jobs REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION admit_changed_jobs();--> statement-breakpoint
CREATE TRIGGER jobs_admit_next AFTER UPDATE ON jobs REFERENCING NEW TABLE AS changed OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION admit_changed_jobs();
