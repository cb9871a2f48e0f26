import { type Ref, shallowRef, watch } from 'vue';
import type { Answer } from '../api/http.ts';

export type Converter = Answer<'system'>['converters'][number];

/** The converters at one time. */
export interface Sample {
  at: Date;
  converters: Converter[];
}

/** Four minutes of samples, one each 2 s. */
const MAX_SAMPLES = 120;

/** Samples since the page was opened, newest last. */
export function useSamples(system: Ref<Answer<'system'> | undefined>): Ref<Sample[]> {
  const samples = shallowRef<Sample[]>([]);
  watch(system, (now) => {
    if (now) samples.value = [...samples.value, { at: new Date(), converters: now.converters }].slice(-MAX_SAMPLES);
  });
  return samples;
}
