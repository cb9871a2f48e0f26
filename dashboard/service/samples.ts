import { type Ref, shallowRef, watch } from 'vue';
import type { Answer } from './http.ts';

export type Converter = Answer<'system'>['converters'][number];

/** The converters as they were at one moment. */
export interface Sample {
  at: Date;
  converters: Converter[];
}

/** Four minutes of them, at one in 2 s. */
const MAX_SAMPLES = 120;

/** What was seen since the page was opened, the latest last. */
export function useSamples(system: Ref<Answer<'system'> | undefined>): Ref<Sample[]> {
  const samples = shallowRef<Sample[]>([]);
  watch(system, (now) => {
    if (now) samples.value = [...samples.value, { at: new Date(), converters: now.converters }].slice(-MAX_SAMPLES);
  });
  return samples;
}
