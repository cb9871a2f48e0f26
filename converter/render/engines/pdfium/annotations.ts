import type { OpenFile } from './open-file.ts';

/** The subtypes of annotations that matter here, as PDFium numbers them (fpdf_annot.h). */
export const SUBTYPES = { LINK: 2, FREE_TEXT: 3, STAMP: 13, POPUP: 16, FILE_ATTACHMENT: 17, WIDGET: 20 } as const;

const HIDDEN = 0x02;
const NO_VIEW = 0x20;

/** Calls `use` with each annotation of a loaded page that is not hidden, without those that `use` adds. */
export function forVisibleAnnotations(
  { pdfium: { call } }: OpenFile,
  loaded: number,
  use: (annotation: number, subtype: number) => void,
): void {
  const count = call.FPDFPage_GetAnnotCount(loaded);
  for (let index = 0; index < count; index++) {
    const annotation = call.FPDFPage_GetAnnot(loaded, index);
    if (annotation === 0) continue;
    const isHidden = (call.FPDFAnnot_GetFlags(annotation) & (HIDDEN | NO_VIEW)) !== 0;
    if (!isHidden) use(annotation, call.FPDFAnnot_GetSubtype(annotation));
    call.FPDFPage_CloseAnnot(annotation);
  }
}
