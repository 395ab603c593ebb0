import assert from "node:assert/strict";
import { RbsError } from "../../proto/base/errors.ts";
import { fallsBack } from "./fallback_policy.ts";

Deno.test("RBS_FALLBACK is local, error or nothing, and never ignored", () => {
  assert.deepEqual([undefined, "", "error", "local"].map(fallsBack), [false, false, false, true]);
  for (const value of ["weird", "Local", "1"]) {
    assert.throws(() => fallsBack(value), (e: RbsError) => e.exitCode === 2 && e.message.includes(value));
  }
});
