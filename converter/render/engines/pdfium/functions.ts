/** The functions of PDFium that this engine calls, by name (the headers of PDFium describe them). */
const FUNCTION_NAMES = [
  'malloc',
  'free',
  'FPDF_InitLibrary',
  'FPDF_SetSystemFontInfo',
  'FPDF_AddInstalledFont',
  'FPDF_LoadMemDocument',
  'FPDF_GetLastError',
  'FPDF_CloseDocument',
  'FPDF_GetPageCount',
  'FPDF_GetPageSizeByIndexF',
  'FPDF_LoadPage',
  'FPDF_ClosePage',
  'FPDF_RenderPageBitmap',
  'FPDF_FFLDraw',
  'FPDFBitmap_CreateEx',
  'FPDFBitmap_FillRect',
  'FPDFBitmap_Destroy',
  'FPDFDOC_InitFormFillEnvironment',
  'FPDFDOC_ExitFormFillEnvironment',
  'FORM_OnAfterLoadPage',
  'FORM_OnBeforeClosePage',
  'FPDFPage_CountObjects',
  'FPDFPage_GetAnnotCount',
  'FPDFPage_GetAnnot',
  'FPDFPage_CloseAnnot',
  'FPDFPage_InsertObject',
  'FPDFAnnot_GetSubtype',
  'FPDFAnnot_GetFlags',
  'FPDFAnnot_GetRect',
  'FPDFAnnot_SetRect',
  'FPDFAnnot_GetStringValue',
  'FPDFAnnot_SetStringValue',
  'FPDFAnnot_GetFormFieldType',
  'FPDFAnnot_SetFormFieldFlags',
  'EPDFAnnot_GetTextAlignment',
  'EPDFAnnot_SetTextAlignment',
  'EPDFAnnot_SetFormFieldValue',
  'EPDFAnnot_SetDefaultAppearance',
  'EPDFPage_CreateFormField',
  'EPDFAnnot_HasAppearanceStream',
  'EPDFAnnot_GetColor',
  'EPDFAnnot_GetOpacity',
  'FPDFPageObj_CreateNewPath',
  'FPDFPageObj_NewTextObj',
  'FPDFPageObj_Transform',
  'FPDFPageObj_SetStrokeColor',
  'FPDFPageObj_SetStrokeWidth',
  'FPDFPageObj_SetFillColor',
  'FPDFPath_LineTo',
  'FPDFPath_SetDrawMode',
  'FPDFText_SetText',
  'FPDFPage_GetObject',
  'FPDFFormObj_CountObjects',
  'FPDFFormObj_GetObject',
  'FPDFPageObj_GetType',
  'FPDFPageObj_GetBounds',
  'FPDF_PageToDevice',
  'FPDFImageObj_GetBitmap',
  'FPDFImageObj_GetImagePixelSize',
  'FPDFImageObj_GetImageFilter',
  'FPDFImageObj_GetImageFilterCount',
  'FPDFImageObj_GetImageDataRaw',
  'EPDFDoc_GetPageObjectNumberByIndex',
] as const;

export type WasmFunction = (...args: number[]) => number;
export type Functions = Readonly<Record<(typeof FUNCTION_NAMES)[number], WasmFunction>>;

/** Checks that a PDFium module exports all of these functions, and wraps each of them. */
export function bindFunctions(exports: object, wrap: (run: WasmFunction) => WasmFunction): Functions {
  const all = new Map<string, unknown>(Object.entries(exports));
  const bound: Record<string, WasmFunction> = {};
  for (const name of FUNCTION_NAMES) {
    const run = all.get(name);
    if (isFunction(run)) bound[name] = wrap(run);
  }
  if (!hasAll(bound)) throw new Error('PDFium lacks a function that is needed');
  return bound;
}

function isFunction(value: unknown): value is WasmFunction {
  return typeof value === 'function';
}

function hasAll(bound: Record<string, WasmFunction>): bound is Functions {
  return FUNCTION_NAMES.every((name) => name in bound);
}
