import { ref, shallowRef } from 'vue';
import { Failure } from '../api/http.ts';

/** The requests of a button: one at a time, with the error of the last one. */
export function useAction() {
  const isBusy = ref(false);
  const failure = shallowRef<Failure>();

  async function run(work: () => Promise<unknown>): Promise<void> {
    if (isBusy.value) return;
    isBusy.value = true;
    failure.value = undefined;
    try {
      await work();
    } catch (error) {
      failure.value = error instanceof Failure ? error : new Failure('internal', String(error));
    } finally {
      isBusy.value = false;
    }
  }

  return { isBusy, failure, run };
}
