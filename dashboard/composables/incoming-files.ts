import { useEventListener } from '@vueuse/core';
import { ref } from 'vue';

/** Accepts files dropped or pasted anywhere on the page until the component is removed; reports files held over it. */
export function useIncomingFiles(take: (files: File[]) => void) {
  const isDragging = ref(false);

  useEventListener(window, 'dragover', (event: DragEvent) => {
    if (!event.dataTransfer?.types.includes('Files')) return;
    // Otherwise the browser opens the dropped file.
    event.preventDefault();
    isDragging.value = true;
  });
  useEventListener(window, 'dragleave', ({ relatedTarget }: DragEvent) => {
    if (relatedTarget === null) isDragging.value = false;
  });
  useEventListener(window, 'drop', (event: DragEvent) => {
    isDragging.value = false;
    takeFrom(event, event.dataTransfer);
  });
  useEventListener(window, 'paste', (event: ClipboardEvent) => takeFrom(event, event.clipboardData));

  function takeFrom(event: Event, data: DataTransfer | null): void {
    const files = [...(data?.files ?? [])];
    if (files.length === 0) return;
    event.preventDefault();
    take(files);
  }

  return { isDragging };
}
