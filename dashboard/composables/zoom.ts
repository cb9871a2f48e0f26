import { useElementSize } from '@vueuse/core';
import { computed, nextTick, type Ref, ref } from 'vue';

const STEP = 1.25;
const MIN_SCALE = 0.05;
const MAX_SCALE = 8;

interface Point {
  x: number;
  y: number;
}

/** The scale of a picture in a scrolling area: fitting, or chosen. The visible point stays in place. */
export function useZoom(area: Readonly<Ref<HTMLElement | null>>, picture: () => { width: number; height: number }) {
  const { width: areaWidth, height: areaHeight } = useElementSize(area);
  const own = ref<number>();
  const fitting = computed(() =>
    Math.min(1, areaWidth.value / picture().width || 1, areaHeight.value / picture().height || 1),
  );
  const scale = computed(() => own.value ?? fitting.value);
  /** Rounded down, so that a fitting picture does not scroll. */
  const size = computed(() => ({
    width: Math.max(1, Math.floor(picture().width * scale.value)),
    height: Math.max(1, Math.floor(picture().height * scale.value)),
  }));

  function fit(): void {
    own.value = undefined;
  }

  /** Keeps a point of the area (by default its centre) in place. */
  async function zoomTo(target: number, at?: Point): Promise<void> {
    const element = area.value;
    if (element === null) return;
    const { x, y } = at ?? { x: element.clientWidth / 2, y: element.clientHeight / 2 };
    const before = scale.value;
    own.value = Math.min(MAX_SCALE, Math.max(MIN_SCALE, target));
    const left = ((element.scrollLeft + x) * own.value) / before - x;
    const top = ((element.scrollTop + y) * own.value) / before - y;
    await nextTick();
    element.scrollTo({ left, top, behavior: 'instant' });
  }

  return {
    scale,
    size,
    isFitting: computed(() => own.value === undefined),
    fit,
    zoomTo,
    zoomIn: (at?: Point) => zoomTo(scale.value * STEP, at),
    zoomOut: (at?: Point) => zoomTo(scale.value / STEP, at),
  };
}
