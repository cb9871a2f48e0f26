/** A flag to wait for: `wait` returns at once if it was set since the last wait, and after `ms` in any case. */
export function createSignal() {
  let isSet = false;
  let wakeUp: (() => void) | undefined;
  return {
    set(): void {
      isSet = true;
      wakeUp?.();
    },
    async wait(ms: number): Promise<void> {
      if (!isSet) {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, ms);
          wakeUp = () => {
            clearTimeout(timer);
            resolve();
          };
        });
      }
      isSet = false;
      wakeUp = undefined;
    },
  };
}
