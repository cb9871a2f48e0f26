import { onScopeDispose, type Ref, ref, shallowRef, watch } from 'vue';
import { Failure } from './http.ts';
import { type Event, onEvents } from './live.ts';

/** Between two loads of the same thing: at least this, and several times as long as the last one took. */
const REST_MS = 500;
const REST_FACTOR = 4;

export interface Resource<T> {
  /** What was loaded last; undefined before. */
  value: Ref<T | undefined>;
  /** Why the last load failed; undefined when it did not. */
  failure: Ref<Failure | undefined>;
  isLoading: Ref<boolean>;
  reload: () => void;
}

/**
 * What `load` gives, kept up to date: loaded again when what `of` gives changes, and when an event comes that `concerns`
 * it. One load at a time; events that come meanwhile make one more.
 */
export function useResource<T>(
  load: () => Promise<T>,
  { of = () => undefined, concerns }: { of?: () => unknown; concerns: (event: Event) => boolean },
): Resource<T> {
  const value = shallowRef<T>();
  const failure = shallowRef<Failure>();
  const isLoading = ref(false);
  let version = 0;
  let isStale = false;
  let resting: ReturnType<typeof setTimeout> | undefined;

  async function reload(): Promise<void> {
    isStale = false;
    clearTimeout(resting);
    resting = undefined;
    const mine = ++version;
    isLoading.value = true;
    const began = performance.now();
    const loaded = await load().catch((error) =>
      error instanceof Failure ? error : new Failure('internal', String(error)),
    );
    // What was asked for since has the say.
    if (mine !== version) return;
    isLoading.value = false;
    if (loaded instanceof Failure) failure.value = loaded;
    else {
      value.value = loaded;
      failure.value = undefined;
    }
    const rest = Math.max(REST_MS, REST_FACTOR * (performance.now() - began));
    resting = setTimeout(() => {
      resting = undefined;
      if (isStale) void reload();
    }, rest);
  }

  function freshen(): void {
    if (isLoading.value || resting !== undefined) isStale = true;
    else void reload();
  }

  watch(
    of,
    () => {
      value.value = undefined;
      void reload();
    },
    { immediate: true, deep: true },
  );
  onEvents((events) => {
    if (events === 'everything' || events.some(concerns)) freshen();
  });
  onScopeDispose(() => {
    version++;
    clearTimeout(resting);
  });
  return { value, failure, isLoading, reload: () => void reload() };
}
