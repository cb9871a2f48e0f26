import { z } from 'zod';
import { PDF_ENGINES } from '../../conversion/conversion-task.ts';
import { MAX_SELECTION_LENGTH, parsePages } from '../../conversion/page-selection.ts';
import { PRIORITIES, UPLOAD_STATUSES } from '../../db/schema.ts';
import type { PageCursor } from '../../db/uploads.ts';
import { notifyUrl, wholeNumber } from '../http/fields.ts';
import { limit } from '../http/pagination.ts';
import { unknownFields } from '../http/validate.ts';

const MAX_YEARS_AHEAD = 100;
/** The grammar of `parsePages`, except the order and size of the numbers. */
const PAGE_SELECTION = '^\\s*\\d{1,9}\\s*(-\\s*\\d{1,9}\\s*)?(,\\s*\\d{1,9}\\s*(-\\s*\\d{1,9}\\s*)?)*$';

const uploadShape = {
  dpi: wholeNumber(36, 600).default(200).describe('The resolution at which PDF pages are drawn'),
  pages: z
    .string()
    .refine(isPageSelection, { error: ({ input }) => pageSelectionError(String(input)) })
    .optional()
    .meta({
      description: 'The pages to convert of each original, such as `1-3,7`. Default: all pages',
      pattern: PAGE_SELECTION,
      maxLength: MAX_SELECTION_LENGTH,
      examples: ['1'],
    }),
  password: z
    .string()
    .max(127, 'must have at most 127 characters')
    .optional()
    .describe('Opens encrypted PDFs. Never returned; deleted when the upload ends'),
  priority: z.enum(PRIORITIES).default('normal'),
  expires_at: z.iso
    .datetime({ offset: true })
    .transform((text) => new Date(text))
    .refine((date) => date.getTime() > Date.now(), 'must be in the future')
    .refine(
      (date) => date.getTime() < Date.now() + MAX_YEARS_AHEAD * 365 * 86_400_000,
      `must be within ${MAX_YEARS_AHEAD} years from now`,
    )
    .optional()
    .meta({ description: 'A time in the future; the upload is deleted then', examples: ['2099-12-31T23:59:59Z'] }),
  notify_url: notifyUrl.optional(),
  engine: z
    .enum(PDF_ENGINES)
    .optional()
    .describe(
      'The engine that draws PDF pages; the other engine draws the pages that this one cannot. Default: the service chooses',
    ),
};

/** The text fields of an upload. Unknown fields are refused, so that a misspelled field is noticed. */
export const uploadFields = z.strictObject(uploadShape, {
  error: (issue) =>
    issue.code === 'unrecognized_keys' ? unknownFields(issue.keys, ['file', ...Object.keys(uploadShape)]) : undefined,
});

/** Removes empty optional fields: HTML forms send a field that was left empty. */
export function withoutEmptyFields(fields: Record<string, unknown>): Record<string, unknown> {
  const isEmpty = ([name, value]: [string, unknown]) => value === '' && Object.hasOwn(uploadShape, name);
  return Object.fromEntries(Object.entries(fields).filter((field) => !isEmpty(field)));
}

export const uploadId = z.uuid().toLowerCase();

/** Originals and pages count from 1 and fit an int4. */
export const ordinal = wholeNumber(1, 2_147_483_647);

/** Three letters or digits in a row: the index of file names finds nothing shorter without reading all names. */
const SEARCHABLE = /[\p{L}\p{N}]{3}/u;

export const uploadList = z.strictObject({
  status: z.enum(UPLOAD_STATUSES).optional(),
  search: z
    .string()
    .regex(/^[^\0]{3,200}$/, 'must be 3 to 200 characters')
    .regex(SEARCHABLE, 'must contain three letters or digits in a row')
    .optional()
    .describe('Part of a file name, or the start of an id. Must contain three letters or digits in a row'),
  limit,
  cursor: z.uuid().optional().describe('The `next_cursor` of the previous list: the id of its last upload'),
});

export const pageList = z.strictObject({
  limit,
  cursor: z
    .string()
    .regex(/^[1-9]\d{0,8}-[1-9]\d{0,8}$/, 'invalid or expired')
    .optional()
    .describe('The `pages_next_cursor` of the upload, or the `next_cursor` of the previous list'),
});

/** Reads the cursor of a list of pages. */
export function readPageCursor(cursor: string | undefined): PageCursor | undefined {
  const [original, page] = cursor?.split('-').map(Number) ?? [];
  return original === undefined || page === undefined ? undefined : { original, page };
}

/** Writes a cursor that `readPageCursor` reads. */
export function writePageCursor(next: PageCursor | null): string | null {
  return next && `${next.original}-${next.page}`;
}

function isPageSelection(text: string): boolean {
  return pageSelectionError(text) === undefined;
}

function pageSelectionError(text: string): string | undefined {
  try {
    parsePages(text);
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}
