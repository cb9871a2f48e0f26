DROP INDEX "events_upload";--> statement-breakpoint
ALTER TABLE "events" ADD COLUMN "oldest_xact" "xid8" DEFAULT pg_snapshot_xmin(pg_current_snapshot()) NOT NULL;--> statement-breakpoint
ALTER TABLE "events" ADD COLUMN "owner" text;--> statement-breakpoint
CREATE INDEX "events_owner" ON "events" USING btree ("owner","xact","id") WHERE owner is not null;--> statement-breakpoint
CREATE INDEX "events_upload" ON "events" USING btree ("upload_id","xact","id") WHERE upload_id is not null;--> statement-breakpoint
-- by hand
UPDATE events SET owner = jobs.owner FROM jobs WHERE jobs.id = events.job_id AND jobs.owner IS NOT NULL AND events.kind <> 'log';
--> statement-breakpoint
UPDATE events SET owner = uploads.owner FROM uploads
	WHERE uploads.id = events.upload_id AND uploads.owner IS NOT NULL AND events.owner IS NULL AND events.kind <> 'log';
--> statement-breakpoint
-- Rows are only added, and deleted in bulk: vacuum by the number of new rows, before an index has grown for a fifth of a large table.
ALTER TABLE events SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);
--> statement-breakpoint
-- NOTIFY with ids, as many as a payload of 8,000 bytes holds; more than a thousand, or very long ones, become one without content: "look again".
CREATE FUNCTION notify_ids(channel text, kind text, ids text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	payload text;
BEGIN
	IF cardinality(ids) > 1000 THEN
		PERFORM pg_notify(channel, '');
		RETURN;
	END IF;
	FOR start IN 1 .. coalesce(cardinality(ids), 0) BY 30 LOOP
		payload := json_build_object(kind, ids[start : start + 29])::text;
		PERFORM pg_notify(channel, CASE WHEN octet_length(payload) < 8000 THEN payload ELSE '' END);
	END LOOP;
END $$;
--> statement-breakpoint
-- Without nested loops: Postgres keeps the plan of the first update in a session, which is of one row, and for many rows it must still be linear.
CREATE OR REPLACE FUNCTION tell_jobs() RETURNS trigger LANGUAGE plpgsql SET enable_nestloop = off AS $$
DECLARE
	moved text[];
	progressed text[];
	cancelled boolean;
	ready boolean;
BEGIN
	SELECT bool_or(status = 'ready') INTO ready FROM changed;
	IF TG_OP = 'INSERT' THEN
		INSERT INTO events (kind, owner, job_id, upload_id, type, status, attempt, data)
			SELECT 'job', owner, id, upload_id, type, status, attempt, error FROM changed;
		IF FOUND THEN PERFORM pg_notify('sheetmill_events', ''); END IF;
	ELSE
		WITH change AS (
			SELECT id, now.owner, now.upload_id, now.type, now.status, now.attempt, now.progress, now.error, before.status AS old_status,
				(now.status, now.attempt) <> (before.status, before.attempt) AS is_move,
				now.status = 'running' AND now.progress IS DISTINCT FROM before.progress AS is_progress
			FROM changed now JOIN before USING (id)
		), told AS (
			INSERT INTO events (kind, owner, job_id, upload_id, type, status, attempt, progress, level, data)
				SELECT 'job', owner, id, upload_id, type, status, attempt, progress,
					CASE WHEN status = 'failed' THEN 'error' WHEN status = 'retrying' THEN 'warn' ELSE 'info' END,
					CASE WHEN status IN ('failed', 'retrying') THEN error END
				FROM change WHERE is_move
		)
		SELECT array_agg(id) FILTER (WHERE is_move), array_agg(id) FILTER (WHERE is_progress AND NOT is_move),
				bool_or(old_status = 'running' AND status = 'cancelled')
			INTO moved, progressed, cancelled FROM change;
		IF moved IS NOT NULL THEN PERFORM pg_notify('sheetmill_events', ''); END IF;
		PERFORM notify_ids('sheetmill_changes', 'jobs', moved);
		PERFORM notify_ids('sheetmill_progress', 'jobs', progressed);
	END IF;
	IF ready THEN PERFORM pg_notify('sheetmill_ready', ''); END IF;
	IF cancelled THEN PERFORM pg_notify('sheetmill_cancelled', ''); END IF;
	RETURN NULL;
END $$;
--> statement-breakpoint
CREATE OR REPLACE FUNCTION tell_pages() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO events (kind, owner, upload_id, status, level, data)
		SELECT 'page', (SELECT owner FROM uploads WHERE id = changed.upload_id), upload_id, status,
			CASE status WHEN 'failed' THEN 'error' ELSE 'info' END, jsonb_build_object('original', original, 'page', page)
		FROM changed ORDER BY original, page;
	IF FOUND THEN PERFORM pg_notify('sheetmill_events', ''); END IF;
	RETURN NULL;
END $$;
--> statement-breakpoint
CREATE OR REPLACE FUNCTION tell_uploads() RETURNS trigger LANGUAGE plpgsql SET enable_nestloop = off AS $$
DECLARE
	told text[];
BEGIN
	IF TG_OP = 'INSERT' THEN
		INSERT INTO events (kind, owner, upload_id, status) SELECT 'upload', owner, id, status FROM changed;
		IF FOUND THEN PERFORM pg_notify('sheetmill_events', ''); END IF;
	ELSIF TG_OP = 'DELETE' THEN
		SELECT array_agg(id::text) INTO told FROM before;
		-- The history of an upload ends with it, but for one event by which its followers learn that it was deleted.
		DELETE FROM events WHERE upload_id = ANY (told::uuid[]);
		INSERT INTO events (kind, owner, upload_id, status) SELECT 'upload', owner, id, 'deleted' FROM before;
	ELSE
		WITH change AS (
			SELECT id, now.owner, now.status, now.pages_done, now.pages_total, now.error
			FROM changed now JOIN before USING (id)
			WHERE (now.status, now.pages_done, now.pages_total) IS DISTINCT FROM (before.status, before.pages_done, before.pages_total)
		), inserted AS (
			INSERT INTO events (kind, owner, upload_id, status, progress, level, data)
				SELECT 'upload', owner, id, status, jsonb_build_object('pages_done', pages_done, 'pages_total', pages_total),
					CASE status WHEN 'failed' THEN 'error' ELSE 'info' END, error
				FROM change
		)
		SELECT array_agg(id::text) INTO told FROM change;
	END IF;
	IF told IS NOT NULL THEN PERFORM pg_notify('sheetmill_events', ''); END IF;
	PERFORM notify_ids('sheetmill_changes', 'uploads', told);
	RETURN NULL;
END $$;
--> statement-breakpoint
CREATE TRIGGER uploads_deleted AFTER DELETE ON uploads REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION tell_uploads();
