import { onScopeDispose, ref, watch } from 'vue';
import type { Answer } from './http.ts';
import { isKeyWanted, key } from './key.ts';

export type Event = Answer<'event'>;

/** The state of the stream: `lost` while there is no connection to the service. */
export const connection = ref<'connecting' | 'open' | 'lost'>('connecting');

/** Events that arrive together are passed on together. */
const GATHER_MS = 150;
const FIRST_DELAY_MS = 500;
const MAX_DELAY_MS = 10_000;
const HANDSHAKE_MS = 15_000;

/** Called with events, and with `everything` after each new connection. */
type Listener = (events: Event[] | 'everything') => void;

const listeners = new Set<Listener>();
let gathered: Event[] = [];
let gathering: ReturnType<typeof setTimeout> | undefined;
let last: number | undefined;
let delayMs = FIRST_DELAY_MS;

/** Calls `listener` with changes until the component is removed. */
export function onEvents(listener: Listener): void {
  listeners.add(listener);
  onScopeDispose(() => listeners.delete(listener));
}

/** Follows the stream of events while the page is open, and reconnects when the WebSocket breaks. */
export function followEvents(): void {
  let socket: WebSocket | undefined;
  let retry: ReturnType<typeof setTimeout> | undefined;

  function connect(): void {
    clearTimeout(retry);
    // The previous socket is ignored.
    socket?.close();
    const opened = open();
    socket = opened;
    const late = setTimeout(() => opened.close(), HANDSHAKE_MS);
    opened.addEventListener('open', () => {
      clearTimeout(late);
      delayMs = FIRST_DELAY_MS;
      connection.value = 'open';
      // The stream continues after the last event; everything loaded before, or failed meanwhile, is loaded again.
      tell('everything');
    });
    opened.addEventListener('message', ({ data }) => gather(JSON.parse(data)));
    opened.addEventListener('close', () => {
      clearTimeout(late);
      if (opened !== socket) return;
      connection.value = 'lost';
      retry = setTimeout(connect, delayMs * (0.5 + Math.random()));
      delayMs = Math.min(delayMs * 2, MAX_DELAY_MS);
    });
  }

  connect();
  addEventListener('online', connect);
  watch(key, () => {
    isKeyWanted.value = false;
    last = undefined;
    connect();
  });
}

function open(): WebSocket {
  const url = new URL('/jobs/stream', location.href.replace(/^http/, 'ws'));
  url.hash = '';
  if (last !== undefined) url.searchParams.set('after', String(last));
  // A browser can set no header here, so the key is sent as a subprotocol, which allows no brackets either.
  const encoded = encodeURIComponent(key.value).replaceAll('(', '%28').replaceAll(')', '%29');
  return new WebSocket(url, key.value === '' ? ['sheetmill'] : ['sheetmill', `bearer.${encoded}`]);
}

function gather(event: Event): void {
  last = event.id;
  gathered.push(event);
  if (gathering !== undefined) return;
  gathering = setTimeout(() => {
    const events = gathered;
    gathered = [];
    gathering = undefined;
    tell(events);
  }, GATHER_MS);
}

function tell(events: Event[] | 'everything'): void {
  for (const listener of listeners) listener(events);
}
