import assert from "node:assert/strict";
import { RbsError } from "../../proto/base/errors.ts";
import { OutputsPolicy } from "../../proto/contract/gen/rbs/v1/command_pb.ts";
import { outputsPolicy } from "./outputs_policy.ts";

Deno.test("RBS_OUTPUTS is toplevel, all, minimal or none, and toplevel if not set", () => {
  const { TOPLEVEL, ALL, MINIMAL } = OutputsPolicy;
  assert.deepEqual([undefined, "", "toplevel", "all", "minimal", "none"].map(outputsPolicy), [
    TOPLEVEL,
    TOPLEVEL,
    TOPLEVEL,
    ALL,
    MINIMAL,
    MINIMAL,
  ]);
});

Deno.test("another value is one sentence, and Bazel's exit code for usage", () => {
  for (const value of ["All", "constructor", "\x1b[31m\n", "x".repeat(1000)]) {
    assert.throws(() => outputsPolicy(value), (e) => {
      assert(e instanceof RbsError && e.exitCode === 2 && e.culprit === "caller");
      assert.match(e.message, /^RBS_OUTPUTS=[ -~]{1,40}…? names no policy .* minimal or none\.$/);
      return true;
    });
  }
});
