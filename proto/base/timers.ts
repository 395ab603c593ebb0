/** A timer of setTimeout or setInterval. */
export type Timer = ReturnType<typeof setTimeout>;

/** Lets the program end although the timer is pending. @returns the timer */
export function unref(timer: Timer): Timer {
  // In Deno it is a number, despite Node's types.
  Deno.unrefTimer(timer as unknown as number);
  return timer;
}

/** Resolves after this time, or as soon as the signal is aborted. Never rejects. */
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
