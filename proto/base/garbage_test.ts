import assert from "node:assert/strict";
import { Garbage } from "./garbage.ts";
import { eventually } from "../../tests/support/eventually.ts";

Deno.test("garbage is collected once for many connections that ended, soon, and not for a few", async () => {
  let collected = 0;
  const garbage = new Garbage(() => collected++);
  for (let n = 0; n < 19; n++) garbage.add();
  // A timer that did not come to its end would fail the test.
  assert.equal(collected, 0);
  for (let n = 0; n < 1_000; n++) garbage.add();
  await eventually(() => collected === 1);
  for (let n = 0; n < 1_000; n++) garbage.add();
  await eventually(() => collected === 2);
});

Deno.test("what is young is collected each four megabytes that have come, and never all the time", () => {
  const collected: unknown[] = [];
  let now = 0;
  const garbage = new Garbage((options) => collected.push(options), () => now);
  for (let n = 0; n < 63; n++) garbage.received(64 << 10);
  assert.deepEqual(collected, []);
  for (let n = 63; n < 1_000; n++) garbage.received(64 << 10);
  assert.deepEqual(collected, [{ type: "minor" }]);
  now = 50;
  for (let n = 0; n < 1_000; n++) garbage.received(64 << 10);
  assert.deepEqual(collected, [{ type: "minor" }, { type: "minor" }]);
});

Deno.test("where the engine's collector cannot be asked, nothing is", () => {
  const garbage = new Garbage(undefined);
  for (let n = 0; n < 1_000; n++) garbage.add();
  garbage.received(100 << 20);
});
