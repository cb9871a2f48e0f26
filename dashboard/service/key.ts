import { useSessionStorage } from '@vueuse/core';
import { ref } from 'vue';

/** The API key, kept until the tab is closed; empty where none was given. */
export const key = useSessionStorage('sheetmill-key', '');

/** Set when the service refused what was asked for the lack of a good key. */
export const isKeyWanted = ref(false);
