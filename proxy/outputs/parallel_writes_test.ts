import assert from "node:assert/strict";
import { WholeFiles } from "./parallel_writes.ts";

const part = (bytes: number, { more = false, first = true, offset = 0 } = {}) => ({
  content: new Uint8Array(bytes),
  more,
  first,
  offset,
});

/** Placing that ends when a test says so. */
function setUp() {
  const placing: { path: string; text: string; end: PromiseWithResolvers<void> }[] = [];
  const whole = new WholeFiles<string>((path, content) => {
    const end = Promise.withResolvers<void>();
    placing.push({ path, text: new TextDecoder().decode(content), end });
    return end.promise;
  });
  const released: string[] = [];
  const add = (path: string) => whole.add(path, new TextEncoder().encode(`of ${path}`), () => released.push(path));
  return { placing, whole, add, released };
}

Deno.test("files that are not small and came in one piece are wanted", () => {
  const { whole } = setUp();
  const small = 512 << 10, large = small + 1;
  assert.equal(whole.wants(part(small)), false);
  assert.equal(whole.wants(part(large)), true);
  assert.equal(whole.wants(part(large, { more: true })), false);
  assert.equal(whole.wants(part(large, { first: false })), false);
  assert.equal(whole.wants(part(large, { offset: 1 })), false);
});

Deno.test("only so many are on their way, and each gives its content back at its end", async () => {
  const { placing, whole, add, released } = setUp();
  assert.equal(add("a"), undefined);
  assert.equal(add("b"), undefined);
  const wait = add("c");
  assert.ok(wait);
  placing[1].end.resolve();
  await wait;
  assert.deepEqual(released, ["b"]);
  assert.ok(add("d"));
  assert.deepEqual(placing.map(({ path, text }) => [path, text]), ["a", "b", "c", "d"].map((p) => [p, `of ${p}`]));
  for (const { end } of placing) end.resolve();
  await whole.finish();
  assert.deepEqual(released.sort(), ["a", "b", "c", "d"]);
});

Deno.test("what goes wrong with one ends the next, and all of it", async () => {
  const { placing, whole, add, released } = setUp();
  add("a");
  placing[0].end.reject(new Error("the disk is full"));
  await assert.rejects(whole.finish(), { message: "the disk is full" });
  assert.throws(() => add("b"), { message: "the disk is full" });
  assert.deepEqual(released, ["a"]);
});

Deno.test("settled waits for what is on its way, whatever becomes of it", async () => {
  const { placing, whole, add } = setUp();
  add("a");
  add("b");
  let over = false;
  const settled = whole.settled().then(() => over = true);
  placing[0].end.reject(new Error("the disk is full"));
  await new Promise((resolve) => setTimeout(resolve));
  assert.equal(over, false);
  placing[1].end.resolve();
  await settled;
  await assert.rejects(whole.finish(), { message: "the disk is full" });
});
