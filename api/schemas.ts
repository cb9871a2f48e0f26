import { z } from 'zod';
import { PRIORITIES, UPLOAD_STATUSES } from '../db/schema.ts';
import { parsePages } from '../jobs/pages.ts';

/** The requests of the contract, as zod reads them. */

const AFTER_YEARS = 100;

/** The text fields of an upload. A field that is not known is refused, so that a typing error does not go unnoticed. */
export const uploadFields = z.strictObject({
  dpi: z.coerce.number().int().min(36).max(600).default(200),
  pages: z
    .string()
    .refine(isPageSelection, { error: ({ input }) => pageSelectionError(String(input)) })
    .optional(),
  password: z.string().min(1).max(127).optional(),
  priority: z.enum(PRIORITIES).default('normal'),
  expires_at: z.iso
    .datetime({ offset: true })
    .transform((text) => new Date(text))
    .refine((date) => date.getTime() > Date.now(), 'must lie in the future')
    .refine((date) => date.getTime() < Date.now() + AFTER_YEARS * 365 * 86_400_000, 'lies too far in the future')
    .optional(),
});

export const uploadList = z.strictObject({
  status: z.enum(UPLOAD_STATUSES).optional(),
  limit: z.coerce.number().int().min(1).max(200).default(50),
  /** The id of the last upload of the page before. */
  cursor: z.uuid().optional(),
});

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
