/** A stream of this process. */
type Out = typeof Deno.stdout;

/** Writes all bytes. @throws {Deno.errors.BrokenPipe} when the reader is gone */
export async function writeAll(out: Out, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    try {
      at += await out.write(bytes.subarray(at));
    } catch (e) {
      // Another program has made the shared pipe or terminal non-blocking; there is no event to wait for.
      if (!(e instanceof Deno.errors.WouldBlock)) throw e;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }
}

/** Writes a short text synchronously. Ignores a reader that is gone. */
export function writeTextSync(out: Out, text: string): void {
  const bytes = new TextEncoder().encode(text);
  try {
    for (let at = 0; at < bytes.length;) at += out.writeSync(bytes.subarray(at));
  } catch { /* the reader is gone */ }
}
