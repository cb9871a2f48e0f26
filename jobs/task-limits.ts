import { z } from 'zod';

const MAX_CONCURRENCY = 10_000;
const MAX_RATE = 1_000_000;
const MAX_RATE_SECONDS = 86_400;

function wholeNumber(max: number) {
  const error = `must be a whole number from 1 to ${max}`;
  return z.int({ error }).min(1, { error }).max(max, { error });
}

/** The limits of a task. */
export const taskLimits = z.object({
  concurrency: z
    .strictObject({
      perType: wholeNumber(MAX_CONCURRENCY).optional(),
      perKey: wholeNumber(MAX_CONCURRENCY).optional(),
    })
    .optional(),
  rate: z.strictObject({ limit: wholeNumber(MAX_RATE), per_seconds: wholeNumber(MAX_RATE_SECONDS) }).optional(),
});
