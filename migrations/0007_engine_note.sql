ALTER TABLE "pages" ADD COLUMN "note" text;--> statement-breakpoint
ALTER TABLE "uploads" ADD COLUMN "engine" text;