import { onBeforeUnmount, onMounted, type Ref } from 'vue';

/** The distance from the visible area that counts as near. */
const MARGIN = '400px';

const listeners = new WeakMap<Element, (isNear: boolean) => void>();
// One observer for all elements: an upload may have thousands of pages.
const observer = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) listeners.get(target)?.(isIntersecting);
  },
  { rootMargin: MARGIN },
);

/** Reports when an element comes near the visible area or leaves it; removal of its component counts as leaving. */
export function onIntersect(element: Readonly<Ref<Element | null>>, listener: (isNear: boolean) => void): void {
  let watched: Element;
  onMounted(() => {
    watched = element.value as Element;
    listeners.set(watched, listener);
    observer.observe(watched);
  });
  onBeforeUnmount(() => {
    observer.unobserve(watched);
    listener(false);
  });
}
