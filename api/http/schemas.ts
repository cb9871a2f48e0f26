import { z } from 'zod';
import { PDF_ENGINES } from '../../conversion/conversion-task.ts';
import { MAX_SELECTION_LENGTH, parsePages } from '../../conversion/page-ranges.ts';
import { ENDED, JOB_STATUSES, MISSED, OPEN_STATUSES, OVERLAPS, PRIORITIES, UPLOAD_STATUSES } from '../../db/schema.ts';
import { unknownFields } from './problem.ts';

/** The requests of the contract, as zod reads them. */

const AFTER_YEARS = 100;
/** What `parsePages` reads, but for the order and size of the numbers. */
const PAGE_SELECTION = '^\\s*\\d{1,9}\\s*(-\\s*\\d{1,9}\\s*)?(,\\s*\\d{1,9}\\s*(-\\s*\\d{1,9}\\s*)?)*$';

/** Where a client wants to hear of an end. Which hosts it may name is api/webhooks/ssrf-guard.ts's to say. */
export const notifyUrl = z
  .url({ protocol: /^https?$/, error: 'must be an http or https URL' })
  .max(2_000, 'must have 2000 characters at most')
  .regex(/^[\x21-\x7e]*$/, 'must be ASCII without blanks')
  .refine((url) => !hasCredentials(url), 'must have no user name or password');

/** A whole number, also as text. */
function wholeNumber(min: number, max: number) {
  const error = `must be a whole number from ${min} to ${max}`;
  return z.coerce.number({ error }).int({ error }).min(min, { error }).max(max, { error });
}

const uploadShape = {
  dpi: wholeNumber(36, 600).default(200).describe('At which PDF pages are drawn'),
  pages: z
    .string()
    .refine(isPageSelection, { error: ({ input }) => pageSelectionError(String(input)) })
    .optional()
    .meta({
      description: 'The pages to convert, of each original, such as `1-3,7`; all of them unless it is given',
      pattern: PAGE_SELECTION,
      maxLength: MAX_SELECTION_LENGTH,
      examples: ['1'],
    }),
  password: z
    .string()
    .max(127, 'must have 127 characters at most')
    .optional()
    .describe('For encrypted PDFs. Never shown, and forgotten at the end'),
  priority: z.enum(PRIORITIES).default('normal'),
  expires_at: z.iso
    .datetime({ offset: true })
    .transform((text) => new Date(text))
    .refine((date) => date.getTime() > Date.now(), 'must lie in the future')
    .refine((date) => date.getTime() < Date.now() + AFTER_YEARS * 365 * 86_400_000, 'lies too far in the future')
    .optional()
    .meta({ description: 'A moment in the future', examples: ['2099-12-31T23:59:59Z'] }),
  notify_url: notifyUrl.optional(),
  engine: z
    .enum(PDF_ENGINES)
    .optional()
    .describe('Draws PDF pages first; the other engine draws what it cannot. The service chooses unless it is given'),
};

/** The text fields of an upload. A field that is not known is refused, so that a typing error does not go unnoticed. */
export const uploadFields = z.strictObject(uploadShape, {
  error: (issue) =>
    issue.code === 'unrecognized_keys' ? unknownFields(issue.keys, ['file', ...Object.keys(uploadShape)]) : undefined,
});

/** The text fields of a form as `uploadFields` reads them: HTML forms send an optional field empty that nobody filled. */
export function withoutEmptyFields(fields: Record<string, unknown>): Record<string, unknown> {
  const isEmpty = ([name, value]: [string, unknown]) => value === '' && Object.hasOwn(uploadShape, name);
  return Object.fromEntries(Object.entries(fields).filter((field) => !isEmpty(field)));
}

/** Originals and pages count from 1 and fit an int4. */
export const ordinal = wholeNumber(1, 2_147_483_647);

export const scheduleName = z
  .string()
  .regex(/^[\w.-]{1,100}$/, 'must be 1 to 100 letters, digits, dots, dashes or underscores');

export const idempotencyKey = z
  .string()
  .regex(/^[\x20-\x7e]{1,255}$/, 'must be 1 to 255 printable ASCII characters')
  .describe('Of your choice: makes a repeat safe for a day. The same request gets the first answer again');

export const prefer = z
  .string()
  .describe('`wait=30` (RFC 7240) holds the answer until it has ended, or so many seconds, 60 at most');

const limit = wholeNumber(1, 200).default(50).describe('How many at most');

/** Three letters or digits in a row: the index of file names finds nothing shorter without reading all names. */
const SEARCHABLE = /[\p{L}\p{N}]{3}/u;

export const uploadList = z.strictObject({
  status: z.enum(UPLOAD_STATUSES).optional(),
  search: z
    .string()
    .regex(/^[^\0]{3,200}$/, 'must be 3 to 200 characters')
    .regex(SEARCHABLE, 'must contain three letters or digits in a row')
    .optional()
    .describe("A part of a file's name, or the start of an id; with three letters or digits in a row"),
  limit,
  cursor: z.uuid().optional().describe('The `next_cursor` of the list before: the id of its last upload'),
});

export const pageList = z.strictObject({
  limit,
  cursor: z
    .string()
    .regex(/^[1-9]\d{0,8}-[1-9]\d{0,8}$/, 'invalid or expired')
    .optional()
    .describe('The `pages_next_cursor` of the upload, or the `next_cursor` of the list before'),
});

export const webhookList = z.strictObject({
  limit,
  cursor: z.uuid().optional().describe('The `next_cursor` of the list before: the id of its last webhook'),
});

/** The place that the cursor of a list of pages names. */
export function readPageCursor(cursor: string | undefined): { original: number; page: number } | undefined {
  const [original, page] = cursor?.split('-').map(Number) ?? [];
  return original === undefined || page === undefined ? undefined : { original, page };
}

/** An offset can lead out of the years 1 to 9999, which is what both JavaScript and Postgres write in four digits. */
export const moment = z.iso
  .datetime({ offset: true })
  .transform((text) => new Date(text))
  .refine((date) => date.getUTCFullYear() >= 1 && date.getUTCFullYear() <= 9999, 'lies too far away');

const jobFilter = {
  type: z
    .string()
    .regex(/^[^\0]{1,200}$/, 'must be 1 to 200 characters')
    .optional(),
  priority: z.enum(PRIORITIES).optional(),
  upload_id: z.uuid().optional(),
  created_after: moment.optional(),
  created_before: moment.optional(),
};

export const jobList = z.strictObject({
  status: z.enum(JOB_STATUSES).optional(),
  ...jobFilter,
  limit,
  cursor: z.string().max(500).optional().describe('The `next_cursor` of the list before'),
});

export const jobsToRetry = z.strictObject({ status: z.enum(['failed', 'cancelled']), ...jobFilter });

const hasFilter = (filter: object) => Object.values(filter).some((value) => value !== undefined);
const FILTER_NEEDED =
  'at least one filter is needed: status, type, priority, upload_id, created_after or created_before';

export const jobsToCancel = z
  .strictObject({ status: z.enum(OPEN_STATUSES).optional(), ...jobFilter })
  .refine(hasFilter, FILTER_NEEDED);

export const jobsToDelete = z
  .strictObject({ status: z.enum(ENDED).optional(), ...jobFilter })
  .refine(hasFilter, FILTER_NEEDED);

const after = wholeNumber(0, Number.MAX_SAFE_INTEGER);

export const logList = z
  .strictObject({
    after: after.default(0).describe('Only lines with a higher `id`'),
    cursor: after.optional().describe('The `next_cursor` of the list before: the id of its last line'),
    limit,
  })
  .transform(({ after, cursor, limit }) => ({ after: cursor ?? after, limit }));

export const streamQuery = z.strictObject({
  job_id: z
    .string()
    .regex(/^[^\0]{1,200}$/, 'must be 1 to 200 characters')
    .optional(),
  upload_id: z.uuid().optional(),
  after: after.optional().describe('The id of an event: those kept since then come first; without it, only new ones'),
});

export const scheduleRequest = z.strictObject({
  cron: z
    .string()
    .min(1)
    .max(200)
    .describe(
      'Five fields (minute, hour, day of month, month, day of week) or one of `@hourly` `@daily` `@weekly` `@monthly` `@yearly`',
    ),
  timezone: z.string().min(1).max(100).default('UTC').describe('A name of the IANA time zone database'),
  job: z.record(z.string(), z.unknown()),
  paused: z.boolean().default(false).describe('A paused schedule is kept, and does not run'),
  overlap: z
    .enum(OVERLAPS)
    .default('allow')
    .describe('`skip` leaves out a run while the job of the previous run has not ended'),
  missed: z
    .enum(MISSED)
    .default('once')
    .describe('`once` makes up one run when an outage has missed one or more, `skip` none'),
});

export const scheduleList = z.strictObject({
  limit,
  cursor: z.string().max(500).optional().describe('The `next_cursor` of the list before'),
});

function hasCredentials(text: string): boolean {
  const url = URL.parse(text);
  return url !== null && (url.username !== '' || url.password !== '');
}

function isPageSelection(text: string): boolean {
  return pageSelectionError(text) === undefined;
}

function pageSelectionError(text: string): string | undefined {
  try {
    parsePages(text);
  } catch (error) {
    return (error as Error).message;
  }
}
