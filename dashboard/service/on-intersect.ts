import { onBeforeUnmount, onMounted, type Ref } from 'vue';

/** How far beyond what is seen counts as near. */
const MARGIN = '400px';

const tellers = new WeakMap<Element, (isNear: boolean) => void>();
// One for all: an upload may have thousands of pages.
const observer = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) tellers.get(target)?.(isIntersecting);
  },
  { rootMargin: MARGIN },
);

/** Tells whether an element comes near to what is seen, or goes away from it, as it does with its component. */
export function onNearness(element: Readonly<Ref<Element | null>>, tell: (isNear: boolean) => void): void {
  let watched: Element;
  onMounted(() => {
    watched = element.value as Element;
    tellers.set(watched, tell);
    observer.observe(watched);
  });
  onBeforeUnmount(() => {
    observer.unobserve(watched);
    tell(false);
  });
}
