/**
 * Waits until `condition` gives something true, and returns that. For what sends no event to wait for: it looks each
 * millisecond at first, and more rarely the longer it lasts.
 *
 * @param what Names the condition when it does not come about: "the server is gone". @default its source
 * @param milliseconds After so many it throws. The default is far beyond what a busy machine needs: name fewer where the
 * time is what is promised.
 */
export async function eventually<T>(
  condition: () => T | Promise<T>,
  what = sourceOf(condition),
  milliseconds = 60_000,
): Promise<Exclude<T, false | null | undefined>> {
  const begun = performance.now();
  for (;;) {
    const value = await condition();
    if (value) return value as Exclude<T, false | null | undefined>;
    const waited = performance.now() - begun;
    if (waited > milliseconds) throw new Error(`After ${milliseconds} ms it is still not so: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, Math.min(Math.max(waited / 20, 1), 20)));
  }
}

/** `() => a === b` as `a === b`. */
function sourceOf(condition: () => unknown): string {
  return String(condition).replace(/^(async )?\(\) *=> */, "").replaceAll(/\s+/g, " ");
}
