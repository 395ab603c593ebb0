import assert from "node:assert/strict";
import { LineReader } from "./line_reader.ts";

/** Lines of what comes in these pieces. */
function reader(pieces: (string | Uint8Array)[], maxBytes?: number): LineReader {
  const encoder = new TextEncoder();
  return new LineReader(
    ReadableStream.from(pieces.map((p) => typeof p === "string" ? encoder.encode(p) : p)),
    maxBytes,
  );
}

Deno.test("lines come one by one, wherever the pieces end, and what follows the last end is one", async () => {
  const lines = reader(["one\ntw", "o\n", "\nthree"]);
  for (const line of ["one", "two", "", "three", undefined, undefined]) assert.equal(await lines.next(), line);
  assert.deepEqual(await Array.fromAsync(reader(["one\n", "two\n"])), ["one", "two"]);
});

Deno.test("a letter that is cut in two is one letter", async () => {
  const [first, ...rest] = new TextEncoder().encode("ä\n");
  assert.equal(await reader([Uint8Array.of(first), Uint8Array.from(rest)]).next(), "ä");
});

Deno.test("of a line that is too long the rest is dropped, and counted", async () => {
  const lines = reader(["12345", "67", "\nnext\n", "123456789\nlast"], 6);
  const seen = [];
  for await (const line of lines) seen.push([line, lines.lineBytes]);
  assert.deepEqual(seen, [["123456", 8], ["next", 5], ["123456", 10], ["last", 5]]);
});

Deno.test("a line without end is told in pieces, and not read to its end", async () => {
  let pulled = 0;
  const endless = new ReadableStream<Uint8Array>({
    pull(controller) {
      pulled++;
      controller.enqueue(new Uint8Array(1 << 20).fill(97));
    },
  });
  const lines = new LineReader(endless);
  assert.equal((await lines.next())!.length, 8 << 20);
  assert.ok(pulled < 20);
  assert.equal((await lines.next())!.length, 8 << 20);
});

Deno.test("a stream that fails, or is closed while somebody waits, has ended", async () => {
  const failing = new ReadableStream<Uint8Array>({ pull: (controller) => controller.error(new Error("broken")) });
  assert.equal(await new LineReader(failing).next(), undefined);
  const silent = new LineReader(new ReadableStream());
  const waiting = silent.next();
  silent.close();
  assert.equal(await waiting, undefined);
});
