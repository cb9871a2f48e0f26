import { type Answer, authorization, Failure, failureOf, unreachable } from './http.ts';

/** The options as typed; the service chooses for empty ones. */
export interface UploadOptions {
  dpi: number | '';
  pages: string;
  password: string;
  priority: string;
}

/** Codes that a repeat may resolve: no answer, a first request still in progress, too many requests. */
const PASSING = new Set([0, 409, 429, 502, 503, 504]);
/** The total of all pauses between tries. */
const PATIENCE_MS = 120_000;
const FIRST_DELAY_MS = 1_000;

/**
 * Uploads one file. A temporary failure is repeated; since all tries have one `key`, the service
 * creates one upload. Reports the part that is sent (0 to 1), and the reason of a wait. Throws Failure.
 */
export async function sendUpload(
  file: File,
  options: UploadOptions,
  {
    key,
    signal,
    onSent,
    onDelay,
  }: { key: string; signal: AbortSignal; onSent: (part: number) => void; onDelay: (reason: Failure) => void },
): Promise<Answer<'upload'>> {
  const form = new FormData();
  for (const [name, value] of Object.entries(options)) if (value !== '') form.append(name, String(value));
  form.append('file', file);
  for (let waited = 0, delayMs = FIRST_DELAY_MS; ; delayMs *= 2) {
    await expectReadable(file);
    const { status, text, retryAfterMs } = await post(form, key, signal, onSent);
    signal.throwIfAborted();
    if (status === 200) return JSON.parse(text);
    const failure = status === 0 ? unreachable() : failureOf(status, text);
    const wait = Math.max(delayMs, retryAfterMs);
    waited += wait;
    if (!PASSING.has(status) || waited > PATIENCE_MS) throw failure;
    onDelay(failure);
    await delay(wait, signal);
  }
}

/** Dropped folders and deleted files cannot be read; the request would only break. */
async function expectReadable(file: File): Promise<void> {
  await file
    .slice(0, 1)
    .arrayBuffer()
    .catch(() => {
      throw new Failure('unreadable', 'The browser cannot read it: it is a folder, or was moved or changed.');
    });
}

/** Uses XMLHttpRequest because `fetch` reports no upload progress. Status 0 means no answer. */
function post(form: FormData, key: string, signal: AbortSignal, onSent: (part: number) => void) {
  return new Promise<{ status: number; text: string; retryAfterMs: number }>((resolve) => {
    const request = new XMLHttpRequest();
    request.open('POST', '/uploads');
    for (const [name, value] of Object.entries({ ...authorization(), 'Idempotency-Key': key }))
      request.setRequestHeader(name, value);
    request.upload.addEventListener('progress', ({ loaded, total }) => onSent(loaded / total));
    request.addEventListener('loadend', () => {
      const retryAfterMs = 1000 * Number(request.getResponseHeader('Retry-After') ?? 0) || 0;
      resolve({ status: request.status, text: request.responseText, retryAfterMs });
    });
    signal.addEventListener('abort', () => request.abort(), { once: true });
    request.send(form);
  });
}

function delay(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener('abort', () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
