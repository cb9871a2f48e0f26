import { createSharedComposable, useIntervalFn, useNow } from '@vueuse/core';

/** The time, to the second: one clock for all components. */
export const useClock = createSharedComposable(() => useNow({ scheduler: (tick) => useIntervalFn(tick, 1_000) }));
