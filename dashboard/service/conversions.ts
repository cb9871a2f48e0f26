import { shallowReactive, shallowRef, watch } from 'vue';
import { type Answer, Failure } from './http.ts';
import { key } from './key.ts';
import { createTurns } from './semaphore.ts';
import { sendUpload, type UploadOptions } from './send-upload.ts';

/** One file on its way to the service, and the upload that the service made of it. */
export interface Conversion {
  readonly number: number;
  readonly file: File;
  options: UploadOptions;
  state: 'waiting' | 'sending' | 'sent' | 'failed' | 'cancelled';
  /** From 0 to 1. */
  sentPart: number;
  /** As it was seen last; there once it is sent. */
  upload: Answer<'upload'> | undefined;
  /** Why it failed, or why it is tried again. */
  failure: Failure | undefined;
  /** What the service knows it by: what is sent again under it counts once. */
  idempotencyKey: string;
  stop: AbortController;
}

const AT_ONCE = 3;
const inTurn = createTurns(AT_ONCE);
let count = 0;

/** The latest first. They live as long as the page, whatever is looked at. */
export const conversions = shallowRef<Conversion[]>([]);

/** Sends each file as an upload of its own. */
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

/** Sends the same again, after it failed on the way or was stopped there. */
export function sendAgain(conversion: Conversion): void {
  Object.assign(conversion, { state: 'waiting', sentPart: 0, failure: undefined, stop: new AbortController() });
  void send(conversion);
}

/** Sends the file again with another password: an upload anew, as the one before has ended. */
export function sendWithPassword(conversion: Conversion, password: string): void {
  conversion.options = { ...conversion.options, password };
  conversion.upload = undefined;
  conversion.idempotencyKey = makeKey();
  sendAgain(conversion);
}

/** Takes a card away. What is still being sent is given up; what the service has taken goes on. */
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

/** `crypto.randomUUID` is there in secure contexts alone. */
function makeKey(): string {
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join('-');
}

// What was refused for the lack of a key goes on once there is one.
watch(key, () => {
  for (const conversion of conversions.value)
    if (conversion.failure?.code === 'unauthorized' && conversion.state === 'failed') sendAgain(conversion);
});
