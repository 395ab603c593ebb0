/**
 * Waits until `holds` returns something true, and returns it. Looks often: for what sends no event to wait for.
 *
 * @param what Names the condition when it does not come about.
 * @param timeout Milliseconds. The default is far beyond what a busy machine needs.
 */
export async function eventually<T>(
  what: string,
  holds: () => T | Promise<T>,
  timeout = 60_000,
): Promise<NonNullable<T>> {
  const deadline = performance.now() + timeout;
  for (;;) {
    const value = await holds();
    if (value) return value;
    if (performance.now() > deadline) throw new Error(`After ${timeout} ms it is still not so that ${what}.`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
