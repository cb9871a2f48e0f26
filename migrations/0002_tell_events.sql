-- Every change of a job, a page or an upload becomes an event, whoever makes it: nobody can forget to tell.
-- NOTIFY has no content and only wakes; equal ones of a transaction are sent once.
CREATE FUNCTION tell_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	told bigint;
	ready boolean;
	cancelled boolean;
BEGIN
	IF TG_OP = 'INSERT' THEN
		INSERT INTO events (kind, job_id, upload_id, type, status, attempt, data)
			SELECT 'job', id, upload_id, type, status, attempt, error FROM changed ORDER BY rank DESC;
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
--> statement-breakpoint
CREATE TRIGGER jobs_submitted AFTER INSERT ON jobs REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION tell_jobs();
--> statement-breakpoint
CREATE TRIGGER jobs_changed AFTER UPDATE ON jobs REFERENCING NEW TABLE AS changed OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION tell_jobs();
--> statement-breakpoint
CREATE FUNCTION tell_pages() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO events (kind, upload_id, status, level, data)
		SELECT 'page', upload_id, status, CASE status WHEN 'failed' THEN 'error' ELSE 'info' END,
			jsonb_build_object('original', original, 'page', page)
		FROM changed ORDER BY original, page;
	IF FOUND THEN PERFORM pg_notify('sheetmill_events', ''); END IF;
	RETURN NULL;
END $$;
--> statement-breakpoint
CREATE TRIGGER pages_done AFTER INSERT ON pages REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION tell_pages();
--> statement-breakpoint
CREATE FUNCTION tell_uploads() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_OP = 'INSERT' THEN
		INSERT INTO events (kind, upload_id, status) SELECT 'upload', id, status FROM changed;
	ELSE
		INSERT INTO events (kind, upload_id, status, progress, level, data)
			SELECT 'upload', id, now.status, jsonb_build_object('pages_done', now.pages_done, 'pages_total', now.pages_total),
				CASE now.status WHEN 'failed' THEN 'error' ELSE 'info' END, now.error
			FROM changed now JOIN before USING (id)
			WHERE (now.status, now.pages_done, now.pages_total) IS DISTINCT FROM (before.status, before.pages_done, before.pages_total);
	END IF;
	IF FOUND THEN PERFORM pg_notify('sheetmill_events', ''); END IF;
	RETURN NULL;
END $$;
--> statement-breakpoint
CREATE TRIGGER uploads_created AFTER INSERT ON uploads REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION tell_uploads();
--> statement-breakpoint
CREATE TRIGGER uploads_changed AFTER UPDATE ON uploads REFERENCING NEW TABLE AS changed OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION tell_uploads();
