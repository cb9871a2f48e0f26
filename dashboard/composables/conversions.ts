import { shallowReactive, shallowRef, watch } from 'vue';
import { type Answer, Failure } from '../api/http.ts';
import { key } from '../api/key.ts';
import { createSemaphore } from '../api/semaphore.ts';
import { sendUpload, type UploadOptions } from '../api/send-upload.ts';

/** One file on its way to the service, and the upload that the service made of it. */
export interface Conversion {
  readonly number: number;
  readonly file: File;
  options: UploadOptions;
  state: 'waiting' | 'sending' | 'sent' | 'failed' | 'cancelled';
  /** From 0 to 1. */
  sentPart: number;
  /** The latest document; set once the file is sent. */
  upload: Answer<'upload'> | undefined;
  /** The reason why it failed, or is tried again. */
  failure: Failure | undefined;
  /** The idempotency key: a repeat with it counts once. */
  idempotencyKey: string;
  stop: AbortController;
}

const AT_ONCE = 3;
const inTurn = createSemaphore(AT_ONCE);
let count = 0;

/** Newest first. They live as long as the page, in every view. */
export const conversions = shallowRef<Conversion[]>([]);

/** Sends each file as a separate upload. */
export function convert(files: File[], options: UploadOptions): void {
  const added = files.map((file) =>
    shallowReactive<Conversion>({
      number: ++count,
      file,
      options: { ...options },
      state: 'waiting',
      sentPart: 0,
      upload: undefined,
      failure: undefined,
      idempotencyKey: makeKey(),
      stop: new AbortController(),
    }),
  );
  conversions.value = [...added, ...conversions.value];
  for (const conversion of added) void send(conversion);
}

/** Sends the file again after sending failed or was stopped. */
export function sendAgain(conversion: Conversion): void {
  Object.assign(conversion, { state: 'waiting', sentPart: 0, failure: undefined, stop: new AbortController() });
  void send(conversion);
}

/** Sends the file as a new upload with another password, since the first upload has ended. */
export function sendWithPassword(conversion: Conversion, password: string): void {
  conversion.options = { ...conversion.options, password };
  conversion.upload = undefined;
  conversion.idempotencyKey = makeKey();
  sendAgain(conversion);
}

/** Removes a card. Sending is aborted; an accepted upload continues. */
export function dismiss(conversion: Conversion): void {
  conversion.stop.abort();
  conversions.value = conversions.value.filter((other) => other !== conversion);
}

async function send(conversion: Conversion): Promise<void> {
  const { file, options, idempotencyKey, stop } = conversion;
  try {
    const upload = await inTurn(stop.signal, () =>
      sendUpload(file, options, {
        key: idempotencyKey,
        signal: stop.signal,
        onSent: (sentPart) => Object.assign(conversion, { state: 'sending', sentPart, failure: undefined }),
        onDelay: (failure) => Object.assign(conversion, { state: 'waiting', failure }),
      }),
    );
    Object.assign(conversion, { state: 'sent', upload, failure: undefined });
  } catch (error) {
    if (stop.signal.aborted) Object.assign(conversion, { state: 'cancelled', failure: undefined });
    else {
      const failure = error instanceof Failure ? error : new Failure('internal', String(error));
      Object.assign(conversion, { state: 'failed', failure });
    }
  }
}

/** `crypto.randomUUID` exists in secure contexts only. */
function makeKey(): string {
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join('-');
}

// Files that were refused without a key are sent once there is one.
watch(key, () => {
  for (const conversion of conversions.value)
    if (conversion.failure?.code === 'unauthorized' && conversion.state === 'failed') sendAgain(conversion);
});
