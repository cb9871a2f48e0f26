import { onScopeDispose, type Ref, ref, shallowRef, watch } from 'vue';
import { Failure } from '../api/http.ts';
import { type Event, onEvents } from '../api/live.ts';

/** The minimal pause between two loads; a slow load makes it several times longer. */
const REST_MS = 500;
const REST_FACTOR = 4;

export interface Resource<T> {
  /** The last loaded value; undefined before the first load. */
  value: Ref<T | undefined>;
  /** The failure of the last load; undefined if it succeeded. */
  failure: Ref<Failure | undefined>;
  isLoading: Ref<boolean>;
  reload: () => void;
}

/**
 * The result of `load`, kept up to date: loaded again when `of` changes and when an event `concerns`
 * it. One load at a time; events during a load cause one more.
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
    // A newer request wins.
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
