-- by hand
-- Without nested loops: Postgres keeps the plan of the first update in a session, which is of one row, and for many rows it must still be linear.
CREATE OR REPLACE FUNCTION tell_jobs() RETURNS trigger LANGUAGE plpgsql SET enable_nestloop = off AS $$
DECLARE
	moved text[];
	progressed text[];
	cancelled boolean;
	ready record;
BEGIN
	SELECT count(*) AS jobs, min(cpu_units) AS cpu_units, min(memory_mb) AS memory_mb INTO ready FROM changed WHERE status = 'ready';
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
	IF ready.jobs > 0 THEN
		-- The token decides which converters look (see jobs/wake.ts); the shape is what the smallest of the jobs needs at least.
		PERFORM pg_notify('sheetmill_ready',
			format('%s %s %s %s', floor(random() * 2147483648)::bigint, ready.jobs, ready.cpu_units, ready.memory_mb));
	END IF;
	IF cancelled THEN PERFORM pg_notify('sheetmill_cancelled', ''); END IF;
	RETURN NULL;
END $$;
