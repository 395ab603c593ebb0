import assert from "node:assert/strict";
import { byBazel } from "./quick_tests.ts";

Deno.test("tests that start a Bazel or a database by what they import are not quick, and others are", () => {
  const { without: quick, rest } = byBazel(["agent", "orchestrator", "proxy", "tests/support"]);
  for (const path of ["agent/arguments_test.ts", "proxy/session/region_test.ts"]) assert(quick.includes(path), path);
  const slow = [
    ...["agent/main_test.ts", "agent/outputs/real_bazel_test.ts", "tests/support/support_test.ts"],
    "orchestrator/store/spanner_store_test.ts",
  ];
  for (const path of slow) {
    assert(Deno.statSync(new URL(`../${path}`, import.meta.url)).isFile);
    assert(!quick.includes(path) && rest.includes(path), path);
  }
});
