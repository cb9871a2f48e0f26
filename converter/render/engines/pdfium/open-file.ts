import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { AppError } from '../../../../runtime/errors.ts';
import { runChecked, startPdfium } from './instance.ts';
import { allocate, withText } from './memory.ts';
import type { Pdfium } from './pdfium.ts';
import { type Damage, findDamage, mayHaveUserUnit } from './raw-file.ts';

/** An open file: addresses in PDFium's memory, 0 for a part that is absent. */
export interface OpenFile {
  pdfium: Pdfium;
  /** The file in PDFium's memory; the view is valid until the next call. */
  file(): Buffer;
  bytes: number;
  size: number;
  document: number;
  formInfo: number;
  form: number;
  /** The pixels of the page that was drawn last. */
  bitmap: { at: number; bytes: number };
  pageCount: number;
  damage: Damage;
  /** True when a page may have a UserUnit. The search takes long in large files. */
  hasUserUnit: boolean;
}

const WRONG_PASSWORD = 4;
const UNSUPPORTED_SECURITY = 5;
/** FPDF_FORMFILLINFO has 140 bytes; PDFium does not call a callback that is null. */
const FORM_INFO_BYTES = 256;
const FORM_INFO_VERSION = 2;

export async function openFile(file: string, password: string | null): Promise<OpenFile> {
  const pdfium = await startPdfium();
  const handles: OpenFile = {
    pdfium,
    file: () => {
      const { buffer, byteOffset } = pdfium.memory();
      return Buffer.from(buffer, byteOffset + handles.bytes, handles.size);
    },
    ...{ bytes: 0, size: 0, document: 0, formInfo: 0, form: 0, pageCount: 0, hasUserUnit: false },
    bitmap: { at: 0, bytes: 0 },
    damage: { shared: false, content: false },
  };
  runChecked(pdfium, 'the PDF cannot be read', () => loadFile(handles, file, password));
  if (handles.pageCount < 1) throw new AppError('corrupt_file', 'the PDF has no pages');
  return handles;
}

function loadFile(handles: OpenFile, file: string, password: string | null): void {
  const { pdfium } = handles;
  const { call } = pdfium;
  readIntoMemory(handles, file);
  handles.document = withText(pdfium, password ?? '', (text) =>
    call.FPDF_LoadMemDocument(handles.bytes, handles.size, text),
  );
  if (handles.document === 0) throw openingError(call.FPDF_GetLastError(), password);
  handles.pageCount = call.FPDF_GetPageCount(handles.document);
  handles.damage = findDamage(handles.file());
  handles.hasUserUnit = mayHaveUserUnit(handles.file());
  handles.formInfo = allocate(pdfium, FORM_INFO_BYTES);
  pdfium.memory().fill(0, handles.formInfo, handles.formInfo + FORM_INFO_BYTES);
  pdfium.memory()[handles.formInfo] = FORM_INFO_VERSION;
  handles.form = call.FPDFDOC_InitFormFillEnvironment(handles.document, handles.formInfo);
}

/** Reads the file straight into PDFium's memory: a second copy may be large. */
function readIntoMemory(handles: OpenFile, file: string): void {
  const descriptor = openSync(file, 'r');
  try {
    const { size } = fstatSync(descriptor);
    handles.bytes = allocate(handles.pdfium, size + 1);
    const target = handles.pdfium.memory().subarray(handles.bytes, handles.bytes + size);
    for (let read = 1; handles.size < size && read > 0; handles.size += read) {
      read = readSync(descriptor, target, handles.size, size - handles.size, null);
    }
  } finally {
    closeSync(descriptor);
  }
}

/** The memory is freed with the instance. */
export function closeFile({ pdfium: { call }, form, document }: OpenFile): void {
  if (form) call.FPDFDOC_ExitFormFillEnvironment(form);
  if (document) call.FPDF_CloseDocument(document);
}

function openingError(code: number, password: string | null): Error {
  if (code === UNSUPPORTED_SECURITY) {
    return new AppError('unsupported_feature', 'the PDF is encrypted for certificates, which is not supported');
  }
  if (code !== WRONG_PASSWORD) return new Error(`PDFium's error ${code}`);
  return password
    ? new AppError('wrong_password', 'the password does not open the PDF')
    : new AppError('encrypted_pdf', 'the PDF is encrypted and needs a password');
}
