import assert from "node:assert/strict";
import { Activity } from "./activity.ts";
import { Lease } from "./lease.ts";

Deno.test("activity counts commands once and tells about each change", () => {
  const activity = new Activity();
  const seen: number[] = [];
  using _listener = activity.onChange((running) => seen.push(running));
  const first = activity.begin();
  {
    using _second = activity.begin();
  }
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  assert.deepEqual(seen, [1, 2, 1, 0]);
});

Deno.test("a lease runs out once nobody holds it and nothing runs", async () => {
  const activity = new Activity();
  const expired = Promise.withResolvers<void>();
  let isExpired = false;
  expired.promise.then(() => isExpired = true);
  using lease = new Lease({ durationMs: 20, activity, onExpired: expired.resolve });
  const hold = lease.hold();
  const command = activity.begin();
  hold[Symbol.dispose]();
  await new Promise((resolve) => setTimeout(resolve, 60));
  assert(!isExpired, "a command runs");
  const again = lease.hold();
  command[Symbol.dispose]();
  await new Promise((resolve) => setTimeout(resolve, 60));
  assert(!isExpired, "somebody holds it");
  again[Symbol.dispose]();
  await expired.promise;
});
