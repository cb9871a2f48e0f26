CREATE TABLE "schedules" (
	"id" uuid PRIMARY KEY NOT NULL,
	"owner" text,
	"name" text NOT NULL,
	"cron" text NOT NULL,
	"timezone" text NOT NULL,
	"paused" boolean DEFAULT false NOT NULL,
	"overlap" text DEFAULT 'allow' NOT NULL,
	"missed" text DEFAULT 'once' NOT NULL,
	"job" jsonb NOT NULL,
	"next_run_at" timestamp with time zone,
	"last_run_at" timestamp with time zone,
	"last_job_id" text,
	"last_error" jsonb,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "schedules_owner_name" UNIQUE NULLS NOT DISTINCT("owner","name"),
	CONSTRAINT "schedules_paused" CHECK (not paused or next_run_at is null),
	CONSTRAINT "schedules_overlap_known" CHECK (overlap in ('allow', 'skip')),
	CONSTRAINT "schedules_missed_known" CHECK (missed in ('once', 'skip'))
);
--> statement-breakpoint
CREATE INDEX "schedules_name" ON "schedules" USING btree ("name","id");--> statement-breakpoint
CREATE INDEX "schedules_due" ON "schedules" USING btree ("next_run_at") WHERE next_run_at is not null;--> statement-breakpoint
-- by hand
-- The schedules that pg-boss kept. Their expressions cannot be read here: they are due at once, and as nothing runs for a
-- time before the schedule was created, that only makes the service compute their next run.
do $$ begin
  if to_regclass('pgboss.schedule') is null then return; end if;
  insert into schedules (id, owner, name, cron, timezone, job, next_run_at, created_at)
    select gen_random_uuid(), data->'job'->>'owner', regexp_replace(key, '^.*/', ''), cron, coalesce(timezone, 'UTC'),
      jsonb_build_object('request', data->'request', 'job', (data->'job') - 'owner'), 'epoch', created_on
    from pgboss.schedule where name = 'cron' and data ? 'job' and data ? 'request';
  delete from pgboss.schedule where name = 'cron';
end $$;
