import { randomUUID } from 'node:crypto';
import { forVisibleAnnotations, SUBTYPES } from './annotations.ts';
import { withMemory, withText, withWideText } from './memory.ts';
import type { OpenFile } from './open-file.ts';
import type { Pdfium } from './pdfium.ts';
import { addPaperClip, addStamp } from './stamps.ts';

/**
 * An annotation without an appearance stream gets one from the viewer. PDFium makes most of them. This file adds the
 * others, only to the document in memory: stamps, paper clips, ticks, and free text beyond Windows-1252.
 */

const NORMAL_APPEARANCE = 0;
const CHECK_BOX = 2;
const RADIO_BUTTON = 3;
const TEXT_FIELD = 6;
const HELVETICA = 4;
const MULTILINE = 0x1000;
const MAX_STRING_BYTES = 65_536;
/** PDFium draws a tick only in this state, whatever name the document uses. */
const TICKED = 'Yes';
const DEFAULT_STYLE = '/Helv 12 Tf 0 g';
const DEFAULT_STAMP = 'Draft';
/** Windows-1252 holds Latin-1 and these. */
const BEYOND_WINDOWS_1252 = /[^\0-\xff€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]/;

export function addMissingAppearances(handles: OpenFile, loaded: number): void {
  const { pdfium } = handles;
  forVisibleAnnotations(handles, loaded, (annotation, subtype) => {
    if (pdfium.call.EPDFAnnot_HasAppearanceStream(annotation, NORMAL_APPEARANCE)) return;
    if (subtype === SUBTYPES.STAMP) {
      addStamp(handles, loaded, annotation, stringOf(pdfium, annotation, 'Name') || DEFAULT_STAMP);
    } else if (subtype === SUBTYPES.FILE_ATTACHMENT) {
      addPaperClip(handles, loaded, annotation);
    } else if (subtype === SUBTYPES.FREE_TEXT) {
      replaceText(handles, loaded, annotation);
    } else if (subtype === SUBTYPES.WIDGET) {
      tick(handles, annotation);
    }
  });
}

/** PDFium draws free text in one font but text fields in fonts for all letters, so a text field shows the text. */
function replaceText({ pdfium, form }: OpenFile, loaded: number, annotation: number): void {
  const { call } = pdfium;
  const style = stringOf(pdfium, annotation, 'DA') || DEFAULT_STYLE;
  // PDFium draws no free text without a style once the document has a form.
  setString(pdfium, annotation, 'DA', style);
  const text = stringOf(pdfium, annotation, 'Contents');
  if (!BEYOND_WINDOWS_1252.test(text)) return;
  const field = withWideText(pdfium, randomUUID(), (name) =>
    call.EPDFPage_CreateFormField(loaded, form, TEXT_FIELD, name),
  );
  if (field === 0) return;
  withMemory(pdfium, 16, (at) => {
    call.FPDFAnnot_GetRect(annotation, at);
    call.FPDFAnnot_SetRect(field, at);
  });
  // This call registers the font; without it, PDFium draws no other free text.
  call.EPDFAnnot_SetDefaultAppearance(field, HELVETICA, 12, 0, 0, 0);
  setString(pdfium, field, 'DA', style);
  withWideText(pdfium, text, (value) => call.EPDFAnnot_SetFormFieldValue(form, field, value));
  call.FPDFAnnot_SetFormFieldFlags(form, field, MULTILINE);
  call.EPDFAnnot_SetTextAlignment(field, call.EPDFAnnot_GetTextAlignment(annotation));
  call.FPDFPage_CloseAnnot(field);
  // The annotation still draws its border and background.
  setString(pdfium, annotation, 'Contents', ' ');
}

function tick({ pdfium, form }: OpenFile, annotation: number): void {
  const type = pdfium.call.FPDFAnnot_GetFormFieldType(form, annotation);
  if (type !== CHECK_BOX && type !== RADIO_BUTTON) return;
  const state = stringOf(pdfium, annotation, 'AS') || stringOf(pdfium, annotation, 'V');
  if (state !== '' && state !== 'Off') setString(pdfium, annotation, 'AS', TICKED);
}

function stringOf(pdfium: Pdfium, annotation: number, key: string): string {
  return withText(pdfium, key, (name) =>
    withMemory(pdfium, MAX_STRING_BYTES, (at) => {
      const bytes = pdfium.call.FPDFAnnot_GetStringValue(annotation, name, at, MAX_STRING_BYTES);
      if (bytes > MAX_STRING_BYTES) return '';
      return Buffer.from(pdfium.memory().subarray(at, at + bytes))
        .toString('utf16le')
        .replace(/\0.*$/s, '');
    }),
  );
}

function setString(pdfium: Pdfium, annotation: number, key: string, value: string): void {
  withText(pdfium, key, (name) =>
    withWideText(pdfium, value, (text) => pdfium.call.FPDFAnnot_SetStringValue(annotation, name, text)),
  );
}
