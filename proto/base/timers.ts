/** A timer, as setTimeout and setInterval give it. */
export type Timer = ReturnType<typeof setTimeout>;

/** Lets the program end although the timer has not gone off. @returns the timer */
export function unref(timer: Timer): Timer {
  // Of a number in Deno, whatever Node's types make of it.
  Deno.unrefTimer(timer as unknown as number);
  return timer;
}

/** Resolves after so many milliseconds, or as soon as the signal is aborted. Never rejects. */
export function pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal?.addEventListener("abort", done);
  });
}
