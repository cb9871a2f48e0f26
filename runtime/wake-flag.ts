/** A flag that a loop waits for: a `set` during the wait, or since the last one, ends it. */
export class WakeFlag {
  #isSet = false;
  /** Ends the current wait; undefined while nothing waits. */
  #wakeUp: (() => void) | undefined;

  set(): void {
    this.#isSet = true;
    this.#wakeUp?.();
  }

  /** Resolves when the flag is set, or after `ms`, and clears the flag. */
  async wait(ms: number): Promise<void> {
    if (!this.#isSet) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, ms);
        this.#wakeUp = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    this.#isSet = false;
    this.#wakeUp = undefined;
  }
}
