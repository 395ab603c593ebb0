import assert from "node:assert/strict";
import { withoutBazel } from "./quick_tests.ts";

Deno.test("tests that start a Bazel by what they import are not quick, and others are", () => {
  const quick = withoutBazel(["agent", "proxy", "tests/support"]);
  for (const path of ["agent/arguments_test.ts", "proxy/region_test.ts"]) assert(quick.includes(path), path);
  for (const path of ["agent/main_test.ts", "agent/outputs/real_bazel_test.ts", "tests/support/support_test.ts"]) {
    assert(!quick.includes(path), path);
  }
});
