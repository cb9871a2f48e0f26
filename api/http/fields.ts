import { z } from 'zod';

/** Fields that requests or documents of several resources share. */

/** Which hosts a URL may name is decided in api/webhooks/ssrf-guard.ts. */
export const notifyUrl = z
  .url({ protocol: /^https?$/, error: 'must be an http or https URL' })
  .max(2_000, 'must have at most 2000 characters')
  .regex(/^[\x21-\x7e]*$/, 'must be ASCII without spaces')
  .refine((url) => !hasCredentials(url), 'must have no user name or password');

/** A whole number, also as text. */
export function wholeNumber(min: number, max: number) {
  const error = `must be a whole number from ${min} to ${max}`;
  return z.coerce.number({ error }).int({ error }).min(min, { error }).max(max, { error });
}

/** A UTC offset can lead out of the years 1 to 9999, the only ones that JavaScript and Postgres both write in four digits. */
export const moment = z.iso
  .datetime({ offset: true })
  .transform((text) => new Date(text))
  .refine(
    (date) => date.getUTCFullYear() >= 1 && date.getUTCFullYear() <= 9999,
    'must be in the years 1 to 9999 (UTC)',
  );

/** A time in a document. */
export const time = z.iso.datetime();

/** Formats a time for a document. */
export function formatTime(date: Date): string;
export function formatTime(date: Date | null): string | null;
export function formatTime(date: Date | null): string | null {
  return date?.toISOString() ?? null;
}

/** The reason that an upload, original, page, job or attempt failed. */
export const failure = z.strictObject({ code: z.string(), message: z.string() });

function hasCredentials(text: string): boolean {
  const url = URL.parse(text);
  return url !== null && (url.username !== '' || url.password !== '');
}
