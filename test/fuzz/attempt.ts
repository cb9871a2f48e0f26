import type { PdfEngine } from '../../conversion/conversion-task.ts';
import { judgeErrors, type Verdict } from './judge.ts';
import type { Mutant } from './mutate.ts';
import { PASSWORD } from './seeds.ts';

/** The codes with which the API refuses a file: its content is not a PDF, PNG or JPEG, or it is empty. */
const REFUSALS = ['unsupported_media_type', 'invalid_request'];
const WAIT_SECONDS = 60;
/** Beyond all time limits of a file. */
const MAX_WAITS = 5;

/** PDFium alone would leave few files to the second engine, which takes longer. */
const SECOND_ENGINE_EVERY = 4;

/** The engine that is asked first for this mutant. */
export function engineFor(index: number): PdfEngine {
  return index % SECOND_ENGINE_EVERY === SECOND_ENGINE_EVERY - 1 ? 'pdf-to-img' : 'pdfium';
}

// biome-ignore lint/suspicious/noExplicitAny: a client reads responses without our types.
type Json = any;

/** Uploads a mutant, waits for its end, judges it and deletes it. `engine` draws PDFs first. */
export async function uploadMutant(
  url: string,
  { name, bytes }: Mutant,
  { engine, signal }: { engine: string; signal: AbortSignal },
): Promise<Verdict> {
  const form = new FormData();
  form.append('dpi', '36');
  form.append('engine', engine);
  form.append('password', PASSWORD);
  form.append('file', new Blob([new Uint8Array(bytes)]), name);
  const response = await fetch(`${url}/uploads`, { method: 'POST', body: form, signal });
  const body: Json = await response.json();
  if (response.status !== 200) {
    const isRefusal = response.status < 500 && REFUSALS.includes(body.code);
    const fault = isRefusal ? null : `POST: ${response.status} ${body.code}: ${body.detail}`;
    return { outcome: body.code, fault, isCrash: false };
  }
  const verdict = (await isDone(url, body.id, signal))
    ? judgeDocument(await get(url, `/uploads/${body.id}`, signal))
    : { outcome: 'unfinished', fault: `not finished within ${MAX_WAITS * WAIT_SECONDS} s`, isCrash: false };
  await fetch(`${url}/uploads/${body.id}`, { method: 'DELETE', signal });
  return verdict;
}

async function isDone(url: string, id: string, signal: AbortSignal): Promise<boolean> {
  for (let wait = 0; wait < MAX_WAITS; wait++) {
    const { done } = await get(url, `/uploads/${id}/status`, signal, { Prefer: `wait=${WAIT_SECONDS}` });
    if (done) return true;
  }
  return false;
}

function judgeDocument(document: Json): Verdict {
  return judgeErrors([document, ...document.originals, ...document.pages]);
}

async function get(
  url: string,
  route: string,
  signal: AbortSignal,
  headers: Record<string, string> = {},
): Promise<Json> {
  const response = await fetch(url + route, { headers, signal });
  if (!response.ok) throw new Error(`GET ${route}: ${response.status} ${await response.text()}`);
  return response.json();
}
