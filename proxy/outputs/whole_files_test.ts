import assert from "node:assert/strict";
import { WholeFiles } from "./whole_files.ts";

const file = (path: string, size: number) => ({
  entry: { path, kind: "file" as const, mode: 0o644, size, mtimeMs: 0 },
});
const part = (text: string, { more = false, first = true } = {}) => ({
  content: new TextEncoder().encode(text),
  more,
  first,
});

/** Placing that ends when a test says so. */
function setUp() {
  const placing: { path: string; text: string; end: PromiseWithResolvers<void> }[] = [];
  const whole = new WholeFiles<ReturnType<typeof file>>((file, content) => {
    const end = Promise.withResolvers<void>();
    placing.push({ path: file.entry.path, text: new TextDecoder().decode(content), end });
    return end.promise;
  });
  return { placing, whole };
}

Deno.test("files between small and large are wanted", () => {
  const { whole } = setUp();
  const wanted = [1, 512 << 10, (512 << 10) + 1, 8 << 20, (8 << 20) + 1].map((size) =>
    whole.wants(file("f", size).entry)
  );
  assert.deepEqual(wanted, [false, false, true, true, false]);
});

Deno.test("a file is placed when its last part is there, and one that was cut off begins anew", async () => {
  const { placing, whole } = setUp();
  const a = file("a", 6), b = file("b", 3);
  assert.equal(whole.add(a, part("abc", { more: true })), undefined);
  assert.equal(placing.length, 0);
  // Its connection broke: another one comes, and then it again.
  whole.add(b, part("xyz"));
  whole.add(a, part("abc", { more: true }));
  whole.add(a, part("def", { first: false }));
  assert.deepEqual(placing.map(({ path, text }) => [path, text]), [["b", "xyz"], ["a", "abcdef"]]);
  for (const { end } of placing) end.resolve();
  await whole.finish();
});

Deno.test("only so many are on their way, and memory is used again", async () => {
  const { placing, whole } = setUp();
  assert.equal(whole.add(file("a", 1), part("a")), undefined);
  assert.equal(whole.add(file("b", 1), part("b")), undefined);
  const wait = whole.add(file("c", 1), part("c"));
  assert.ok(wait);
  placing[1].end.resolve();
  await wait;
  assert.ok(whole.add(file("d", 1), part("d")));
  assert.deepEqual(placing.map(({ text }) => text), ["a", "b", "c", "d"]);
  for (const { end } of placing) end.resolve();
  await whole.finish();
});

Deno.test("what goes wrong with one ends the next, and all of it", async () => {
  const { placing, whole } = setUp();
  whole.add(file("a", 1), part("a"));
  placing[0].end.reject(new Error("the disk is full"));
  await assert.rejects(whole.finish(), { message: "the disk is full" });
  assert.throws(() => whole.add(file("b", 1), part("b")), { message: "the disk is full" });
});

Deno.test("settled waits for what is on its way, whatever becomes of it", async () => {
  const { placing, whole } = setUp();
  whole.add(file("a", 1), part("a"));
  whole.add(file("b", 1), part("b"));
  let over = false;
  const settled = whole.settled().then(() => over = true);
  placing[0].end.reject(new Error("the disk is full"));
  await new Promise((resolve) => setTimeout(resolve));
  assert.equal(over, false);
  placing[1].end.resolve();
  await settled;
  await assert.rejects(whole.finish(), { message: "the disk is full" });
});
