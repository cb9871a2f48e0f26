import { useSessionStorage } from '@vueuse/core';
import { ref } from 'vue';

/** The API key, kept until the tab is closed; empty if none was given. */
export const key = useSessionStorage('sheetmill-key', '');

/** True when the service refused a request for lack of a valid key. */
export const isKeyWanted = ref(false);
