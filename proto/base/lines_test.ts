import assert from "node:assert/strict";
import { InputLines } from "./lines.ts";

/** Input that comes in these pieces. */
function input(...pieces: (string | Uint8Array)[]): InputLines {
  const encoder = new TextEncoder();
  return new InputLines(ReadableStream.from(pieces.map((p) => typeof p === "string" ? encoder.encode(p) : p)));
}

Deno.test("lines come one by one, wherever the pieces end", async () => {
  const lines = input("one\ntw", "o\n", "\nthree");
  assert.deepEqual([await lines.next(), await lines.next(), await lines.next()], ["one", "two", ""]);
  assert.equal(await lines.next(), "three");
  assert.equal(await lines.next(), "");
});

Deno.test("a letter that is cut in two is one letter", async () => {
  const [first, ...rest] = new TextEncoder().encode("ä\n");
  assert.equal(await input(Uint8Array.of(first), Uint8Array.from(rest)).next(), "ä");
});

Deno.test("a line without end is not read to its end", async () => {
  let pulled = 0;
  const endless = new ReadableStream<Uint8Array>({
    pull(controller) {
      pulled++;
      controller.enqueue(new Uint8Array(1 << 20).fill(97));
    },
  });
  assert.ok((await new InputLines(endless).next()).length <= 10 << 20);
  assert.ok(pulled < 20);
});
