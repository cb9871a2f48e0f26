import { onScopeDispose, shallowRef, watch } from 'vue';
import { askBlob, Failure } from '../api/http.ts';

/** A URL of the bytes at a path for an image, revoked when the path changes or the component is removed. */
export function useObjectUrl(path: () => string) {
  const url = shallowRef<string>();
  const failure = shallowRef<Failure>();
  let loading = new AbortController();

  function forget(): void {
    loading.abort();
    if (url.value !== undefined) URL.revokeObjectURL(url.value);
    url.value = undefined;
    failure.value = undefined;
  }

  watch(
    path,
    async () => {
      forget();
      loading = new AbortController();
      const { signal } = loading;
      try {
        const blob = await askBlob(path(), signal);
        if (!signal.aborted) url.value = URL.createObjectURL(blob);
      } catch (error) {
        if (!signal.aborted) failure.value = error instanceof Failure ? error : new Failure('internal', String(error));
      }
    },
    { immediate: true },
  );
  onScopeDispose(forget);
  return { url, failure };
}
