import assert from "node:assert/strict";
import { Sweeper } from "./sweeper.ts";
import { eventually } from "../../tests/support/eventually.ts";

/** A sweeper whose passes end when they are told to. */
function sweeper() {
  const passes: PromiseWithResolvers<void>[] = [];
  const made = new Sweeper(() => {
    const pass = Promise.withResolvers<void>();
    passes.push(pass);
    return pass.promise;
  });
  return { made, passes, [Symbol.dispose]: () => made[Symbol.dispose]() };
}

Deno.test("a pass that is due begins at the latest with the next command, which waits for it", async () => {
  using t = sweeper();
  await t.made.settled();
  assert.equal(t.passes.length, 0);
  void t.made.soon();
  const settled = t.made.settled();
  assert.equal(t.passes.length, 1);
  t.passes[0].resolve();
  await settled;
});

Deno.test("a command does not wait for a pass that takes long", async () => {
  using t = sweeper();
  void t.made.soon();
  await t.made.settled();
  assert.equal(t.passes.length, 1);
  // Now it is known to take long: nobody waits any more.
  const over = t.made.soon();
  t.passes[0].resolve();
  await t.made.settled();
  t.made[Symbol.dispose]();
  await over;
});

Deno.test("what was asked for during a pass needs another one, whether the first fails or not", async () => {
  using t = sweeper();
  void t.made.soon();
  const settled = t.made.settled();
  const over = t.made.soon();
  t.passes[0].reject(new Error("a disk that does not answer"));
  await eventually(() => t.passes.length >= 2);
  t.passes[1].resolve();
  await Promise.all([settled, over]);
  assert.equal(t.passes.length, 2);
});
